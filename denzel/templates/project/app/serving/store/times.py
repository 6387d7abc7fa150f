"""Times of a task on Redis' clock, and the estimate of when one that waits will have ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

#: Tasks that must have run before the time of others is estimated.
MIN_RUNS = 20


@dataclass(frozen=True, kw_only=True)
class Times:
    """The times at which a task was accepted, its latest delivery started, it ended, and this was read, in seconds
    since 1970. None for what has not happened, or was not recorded, as of another client's task.
    """

    accepted: float | None = None
    started: float | None = None
    ended: float | None = None
    now: float | None = None

    @property
    def waited(self) -> float | None:
        """Seconds until the latest start, or by now; with those of earlier deliveries."""
        return _between(self.accepted, self.started or self.ended or self.now)

    @property
    def ran(self) -> float | None:
        """Seconds since the latest start, until the result was stored if it was."""
        return _between(self.started, self.ended or self.now)


@dataclass(frozen=True, kw_only=True)
class QueueSpeed:
    """The seconds that a task takes a process, how many processes are up, and how many tasks they have."""

    seconds: float
    processes: int
    claimed: int

    def eta(self, position: int) -> float:
        """Seconds until the task at this position will have ended. Those that run are half done, on average."""
        if position <= self.processes - self.claimed:
            return self.seconds
        return self.seconds * ((position - 1 + self.claimed / 2) / self.processes + 1)


def read_times(fields: Mapping[str, str], now: float | None = None) -> Times:
    """The times in the fields of a record."""
    accepted, started, ended = (_number(fields.get(name)) for name in ("accepted", "started", "ended"))
    return Times(accepted=accepted, started=started, ended=ended, now=now)


def read_speed(known: Sequence[str | None], claimed: int, reports: Iterable[Mapping[str, str]]) -> QueueSpeed | None:
    """The speed from the number and average of runs, and the workers' reports; None while too little is known."""
    count, mean = known
    processes = sum(
        name.startswith("process:") and state.startswith("UP") for report in reports for name, state in report.items()
    )
    if count is None or mean is None or float(count) < MIN_RUNS or processes == 0:
        return None
    return QueueSpeed(seconds=float(mean), processes=processes, claimed=claimed)


def read_clock(reply: Any) -> float:
    """The seconds since 1970 in the answer to the command TIME."""
    seconds, microseconds = reply
    return int(seconds) + int(microseconds) / 1_000_000


def iso(seconds: float | None) -> str | None:
    """A time in ISO 8601, UTC, to the millisecond; None for None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
