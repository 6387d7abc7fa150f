"""Results of a drill: tasks, callbacks and outages as they were observed, and the report on them.

Times are seconds of one clock (time.monotonic).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from denzel.errors import DrillFailed
from denzel.services import FAILURE, SUCCESS

#: The reason of a failed attempt to send a request, where it is no status of a response.
NO_CONNECTION = "no connection"

#: The parts that a drill can kill, in its order: one process that predicts, services, its own receiver.
WORKER = "worker"
RECEIVER = "receiver"
PARTS = (WORKER, "denzel", "api", "monitor", "redis", RECEIVER)


@dataclass(frozen=True, kw_only=True)
class TrackedTask:
    """The task of an accepted request: when it was accepted, and its state in the latest GET /status.

    `ended` is None until it has ended. `settled`: its callback is no longer pending. `gone`: /status has no such task.
    """

    number: int
    task_id: str
    accepted: float
    status: str = ""
    reason: str = ""
    ended: float | None = None
    settled: bool = False
    gone: bool = False

    @property
    def completed(self) -> bool:
        return self.ended is not None and self.status in (SUCCESS, FAILURE)

    def is_final(self, called_back: Collection[str]) -> bool:
        """True when its state can no longer change, given the ids of tasks that were called back."""
        return self.gone or (self.settled and self.task_id in called_back)


@dataclass(frozen=True, kw_only=True)
class CallbackReceipt:
    """One callback that was received: for which request, of which task, and the fault of its signature, if any."""

    when: float
    number: int
    task_id: str
    fault: str = ""


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
    *,
    tasks: Collection[TrackedTask],
    receipts: Sequence[CallbackReceipt],
    outages: Sequence[Outage],
    refused: Mapping[str, int],
    requested: int,
    seconds: float,
    interrupted: bool,
) -> DrillReport:
    """The report on a drill that was to send so many requests as `requested`."""
    receipt_counts = Counter(receipt.task_id for receipt in receipts)
    by_number = {task.number: task.task_id for task in tasks}
    # A callback for a request, but from another task than its own: the request was accepted twice. Until its response
    # has arrived, the task of a request is unknown.
    duplicates = {
        receipt.task_id for receipt in receipts if by_number.get(receipt.number, receipt.task_id) != receipt.task_id
    }
    completed = [task for task in tasks if task.completed]
    failures = [task for task in completed if task.status == FAILURE]
    faults = [receipt.fault for receipt in receipts if receipt.fault]
    called_back = [task for task in tasks if task.task_id in receipt_counts]
    missing = [task for task in tasks if not task.completed or task.task_id not in receipt_counts]
    # A settled task cannot change any more; the others did not have the time to.
    not_through = [task.task_id for task in missing if interrupted and not (task.settled or task.gone)]
    parts = dict.fromkeys(outage.part for outage in outages)
    return DrillReport(
        tasks=requested,
        accepted=len(tasks),
        refused=dict(refused),
        completed=len(completed),
        failed=len(failures),
        failure=failures[0].reason if failures else "",
        called_back=len(called_back),
        called_back_twice=sum(receipt_counts[task.task_id] > 1 for task in called_back),
        lost=[task.task_id for task in missing if task.task_id not in not_through],
        not_through=not_through,
        made_twice=sorted(duplicates),
        bad_signatures=len(faults),
        fault=faults[0] if faults else "",
        parts=[_part_report(part, outages, tasks, receipts) for part in parts],
        seconds=seconds,
        interrupted=interrupted,
    )


def _part_report(
    part: str, outages: Sequence[Outage], tasks: Collection[TrackedTask], receipts: Sequence[CallbackReceipt]
) -> PartReport:
    own = [outage for outage in outages if outage.part == part]
    recoveries = [outage.over - outage.began for outage in own if outage.over is not None]
    return PartReport(
        part=part,
        killed=len(own),
        recovered=max(recoveries) if len(recoveries) == len(own) else None,
        caught_up=max((delay for outage in own for delay in _delays(outage, tasks, receipts)), default=None),
    )


def _delays(outage: Outage, tasks: Collection[TrackedTask], receipts: Sequence[CallbackReceipt]) -> list[float]:
    """Seconds from an outage to the end of each task that was accepted before it, or to its callback for a receiver."""
    accepted = {task.task_id: task.accepted for task in tasks if task.accepted <= outage.began}
    if outage.of_receiver:
        first: dict[str, float] = {}
        for receipt in receipts:
            first.setdefault(receipt.task_id, receipt.when)
        done = {task_id: first.get(task_id) for task_id in accepted}
    else:
        done = {task.task_id: task.ended for task in tasks if task.task_id in accepted}
    return [when - outage.began for when in done.values() if when is not None and when > outage.began]


def _few(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
