"""What a bench has measured, and what it comes to: throughput, latencies, errors. Times are in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: A histogram has a bound at each of these, in every power of ten.
_BOUNDS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)

#: A histogram begins and ends with this share of the values, at least; what is beyond is one bar at either end.
_TAIL = 0.001


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long something took, over `count` times of it."""

    count: int
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """How many times something took no longer than this, and longer than the bucket before."""

    up_to: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Errors:
    """One kind of error: how often it came, and what was said the first time."""

    kind: str
    count: int
    first: str


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How many tasks waited in the queue at a moment of the run, and how many the worker had taken."""

    at: float
    tasks: int
    taken: int = 0


@dataclass(frozen=True, kw_only=True)
class Processors:
    """How many cores were busy on average: for each service, for the bench itself, and in the whole machine."""

    services: Mapping[str, float]
    generator: float
    machine: float
    cores: int

    @property
    def others(self) -> float:
        """What other programs took."""
        return max(0.0, self.machine - sum(self.services.values()) - self.generator)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What kept the project from doing more: a service, `bench`, `machine`, or empty for nothing; and why."""

    bottleneck: str
    why: str


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What a bench came to. `accept` is None where answers are results, `end_to_end` where nothing came to its end.

    `unsent` are requests that were due, and for which no connection was free. `unfinished` are requests that had not
    come to their end when the sending was over, and tasks that ran on behind a 202; `cancelled` those that still had
    not when they were no longer waited for, and `lost_sight` those of which nobody knows.
    """

    mode: str
    rate: float | None
    clients: int | None
    seconds: float
    sent: int
    unsent: int
    accepted: int
    completed: int
    failed: int
    accepted_per_second: float
    completed_per_second: float
    accept: Latency | None
    end_to_end: Latency | None
    histogram: Sequence[Bucket]
    errors: Sequence[Errors]
    unfinished: int
    cancelled: int
    lost_sight: int
    queue: Sequence[Waiting]
    processors: Processors | None
    verdict: Verdict
    interrupted: bool


def as_data(figures: BenchReport) -> dict[str, Any]:
    """What JSON can say of them."""
    data = asdict(figures)
    if figures.processors is not None:
        data["processors"]["others"] = figures.processors.others
    return data


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least of these values that so many percent of them do not exceed; the values are in order."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def latency(values: Sequence[float]) -> Latency | None:
    """None when there are no values."""
    if not values:
        return None
    ordered = sorted(values)
    return Latency(
        count=len(ordered),
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p99=percentile(ordered, 99),
        max=ordered[-1],
    )


def histogram(values: Sequence[float]) -> list[Bucket]:
    """Buckets of about the same width in proportion, from the least values to the greatest; none without values."""
    if not values:
        return []
    ordered = sorted(values)
    first = _bound_over(ordered[int(len(ordered) * _TAIL)])
    last = _bound_over(ordered[-1 - int(len(ordered) * _TAIL)])
    bounds = [first]
    while bounds[-1] < last:
        bounds.append(_next_bound(bounds[-1]))
    if bounds[-1] < ordered[-1]:
        bounds.append(ordered[-1])
    counts = [0] * len(bounds)
    bucket = 0
    for value in ordered:
        while value > bounds[bucket]:
            bucket += 1
        counts[bucket] += 1
    return [Bucket(up_to=bound, count=count) for bound, count in zip(bounds, counts, strict=True)]


def _bound_over(value: float) -> float:
    """The least bound that is not below a value."""
    power = math.floor(math.log10(max(value, 1e-6)))
    candidates = [round(bound * 10.0**exponent, 9) for exponent in (power, power + 1) for bound in _BOUNDS]
    return next(bound for bound in candidates if bound >= value)


def _next_bound(bound: float) -> float:
    return _bound_over(bound * 1.0001)
