"""Results of a drill: outages as they were observed, and the report on them and on every request.

Times are seconds of one clock (time.monotonic).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from denzel.errors import DrillFailed
from denzel.services import FAILURE

if TYPE_CHECKING:
    from denzel.loadtest.request_log import Request, RequestLog

#: The parts that a drill can kill, in its order: one process that predicts, services, its own receiver.
WORKER = "worker"
RECEIVER = "receiver"
PARTS = (WORKER, "denzel", "api", "monitor", "redis", RECEIVER)


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A part that was killed, or a receiver that was away: from when it could recover, and when it did.

    `over` is None when it did not recover in time.
    """

    part: str
    began: float
    over: float | None
    of_receiver: bool = False


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """All outages of one part: their number, and the longest time in seconds to recover and to catch up.

    `recovered` is None when one did not recover. `caught_up` is None where no earlier work was held up.
    """

    part: str
    killed: int
    recovered: float | None
    caught_up: float | None


@dataclass(frozen=True, kw_only=True)
class DrillReport:
    """The results of a drill. `lost`, `not_through` and `made_twice` are ids of tasks.

    `refused` counts failed attempts by their reason. `not_through` tasks were unfinished when a drill was interrupted:
    whether they are lost is unknown.
    """

    tasks: int
    accepted: int
    refused: Mapping[str, int]
    completed: int
    failed: int
    failure: str
    called_back: int
    called_back_twice: int
    lost: Sequence[str]
    not_through: Sequence[str]
    made_twice: Sequence[str]
    bad_signatures: int
    fault: str
    parts: Sequence[PartReport]
    seconds: float
    interrupted: bool

    @property
    def slowest_recovery(self) -> float | None:
        """In seconds; None when nothing was killed, or when something did not recover."""
        recoveries = [part.recovered for part in self.parts]
        known = [seconds for seconds in recoveries if seconds is not None]
        return max(known, default=None) if len(known) == len(recoveries) else None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**asdict(self), "slowest_recovery": self.slowest_recovery}

    def raise_for_failure(self) -> None:
        """Raise DrillFailed unless each accepted request has its result and its callback, and led to one task alone."""
        where = "Look for their ids in denzel logs --service denzel, and keep this output for a report."
        if self.lost:
            raise DrillFailed(
                f"Accepted tasks were lost, {len(self.lost)} of {self.accepted}: {_few(self.lost)}.", hint=where
            )
        if self.made_twice:
            raise DrillFailed(
                f"Requests were made into a second task, {len(self.made_twice)}: {_few(self.made_twice)}.", hint=where
            )
        if self.bad_signatures:
            raise DrillFailed(
                f"Callbacks had a bad signature, {self.bad_signatures}: {self.fault}.",
                hint="When CALLBACK_SECRET in .env has changed since the start: denzel restart",
            )
        for part in self.parts:
            if part.recovered is None:
                raise DrillFailed(f"{part.part} did not recover.", hint="denzel status, then denzel logs")
        if self.accepted < self.tasks and not self.interrupted:
            raise DrillFailed(
                f"Requests were never accepted, {self.tasks - self.accepted} of {self.tasks}.",
                hint="denzel status, then denzel logs --service api",
            )


def summarize(
    log: RequestLog, outages: Sequence[Outage], *, requested: int, seconds: float, interrupted: bool
) -> DrillReport:
    """The report on a drill that was to send so many requests as `requested`."""
    tasks = log.accepted
    failures = [task for task in tasks if task.has_run and task.status == FAILURE]
    called_back = [task for task in tasks if task.own_callbacks]
    callbacks = [callback for request in log.requests for callback in request.callbacks]
    faults = [callback.fault for callback in callbacks if callback.fault]
    missing = [task for task in tasks if not task.has_run or not task.own_callbacks]
    # A settled task cannot change any more; the others did not have the time to.
    not_through = [task.task_id for task in missing if interrupted and not (task.is_settled or task.is_gone)]
    return DrillReport(
        tasks=requested,
        accepted=len(tasks),
        refused=log.refused,
        completed=sum(task.has_run for task in tasks),
        failed=len(failures),
        failure=failures[0].reason if failures else "",
        called_back=len(called_back),
        called_back_twice=sum(len(task.own_callbacks) > 1 for task in called_back),
        lost=[task.task_id for task in missing if task.task_id not in not_through],
        not_through=not_through,
        # Until the response has arrived, the task of a request is unknown.
        made_twice=sorted({one.task_id for task in tasks for one in task.callbacks if one.task_id != task.task_id}),
        bad_signatures=len(faults),
        fault=faults[0] if faults else "",
        parts=[_part_report(part, outages, tasks) for part in dict.fromkeys(outage.part for outage in outages)],
        seconds=seconds,
        interrupted=interrupted,
    )


def _part_report(part: str, outages: Sequence[Outage], tasks: Sequence[Request]) -> PartReport:
    own = [outage for outage in outages if outage.part == part]
    recoveries = [outage.over - outage.began for outage in own if outage.over is not None]
    return PartReport(
        part=part,
        killed=len(own),
        recovered=max(recoveries) if len(recoveries) == len(own) else None,
        caught_up=max((delay for outage in own for delay in _delays(outage, tasks)), default=None),
    )


def _delays(outage: Outage, tasks: Sequence[Request]) -> list[float]:
    """Seconds from an outage to the end of each task that was accepted before it, or to its callback for a receiver."""
    before = [task for task in tasks if task.accepted is not None and task.accepted <= outage.began]
    if outage.of_receiver:
        ends: list[float | None] = [task.own_callbacks[0].when for task in before if task.own_callbacks]
    else:
        ends = [task.ended for task in before]
    return [when - outage.began for when in ends if when is not None and when > outage.began]


def _few(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
