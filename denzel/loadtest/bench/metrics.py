"""Metrics of a bench: throughput, latencies, errors, queue length and CPU usage. Times are in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The distribution of `count` durations."""

    count: int
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, kw_only=True)
class ErrorCount:
    """One kind of error: how often it occurred, and its first description."""

    kind: str
    count: int
    first: str


@dataclass(frozen=True, kw_only=True)
class QueueSample:
    """The number of tasks in the queue `at` a time of the run, and of those that the worker had taken."""

    at: float
    tasks: int
    taken: int = 0


@dataclass(frozen=True, kw_only=True)
class CpuUsage:
    """Cores that were busy on average: of each service, of the bench itself, and of the whole machine."""

    services: Mapping[str, float]
    generator: float
    machine: float
    cores: int

    @property
    def others(self) -> float:
        """Cores that other programs used."""
        return max(0.0, self.machine - sum(self.services.values()) - self.generator)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The bottleneck of a run: a service, `bench`, `machine`, or empty for none; and the evidence."""

    bottleneck: str
    why: str


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """The results of a bench. `accept` is None in the mode `sync`, `end_to_end` where no request was completed.

    `unsent` requests were due, and found no free connection. `unfinished` ones had no result when the sending was over,
    or a task that went on after a 202; `cancelled` ones had none when the drain timed out either. The end of
    `lost_sight` ones is unknown, as a response or a callback never arrived.
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
    errors: Sequence[ErrorCount]
    unfinished: int
    cancelled: int
    lost_sight: int
    queue: Sequence[QueueSample]
    processors: CpuUsage | None
    verdict: Verdict
    interrupted: bool

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        fields = asdict(self)
        if self.processors is not None:
            fields["processors"]["others"] = self.processors.others
        return fields


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the sorted values that `percent` of them do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def latency(values: Sequence[float]) -> Latency | None:
    """The distribution of these durations; None when there are none."""
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
