"""What a drill has seen, and what it comes to: tasks, callbacks, outages, and the figures made of them.

Moments are seconds of one clock (time.monotonic).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from denzel.errors import DrillFailed
from denzel.services import FAILURE, SUCCESS

#: Why a try to send a request did not lead to a task, where that is no status of an answer.
NO_CONNECTION = "no connection"

#: What a drill can kill, in the order in which it does: one process that predicts, services, its own receiver.
WORKER = "worker"
RECEIVER = "receiver"
PARTS = (WORKER, "denzel", "api", "monitor", "redis", RECEIVER)


@dataclass(frozen=True, kw_only=True)
class SentTask:
    """One accepted request, by its number: when it was accepted, and what GET /status has said of it since.

    `ended` is None until it has ended. `settled`: its callback is under way no more. `gone`: /status does not know it.
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

    def is_through(self, called_back: Collection[str]) -> bool:
        """Whether nothing more comes of it, when these tasks were called back."""
        return self.gone or (self.settled and self.task_id in called_back)


@dataclass(frozen=True, kw_only=True)
class DrillCallback:
    """One callback that was received: for which request, of which task, and why its signature is bad, if it is."""

    when: float
    number: int
    task_id: str
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Outage:
    """One part that was killed, or a receiver that was away: since when it might work again, and since when it did.

    `over` is None when it did not, in the time it was given.
    """

    part: str
    began: float
    over: float | None
    of_receiver: bool = False


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """One part: how often it was killed, and the longest it took, in seconds, to recover and to catch up.

    `recovered` is None when it did not. `caught_up` is None where no earlier work was held up.
    """

    part: str
    killed: int
    recovered: float | None
    caught_up: float | None


@dataclass(frozen=True, kw_only=True)
class DrillReport:
    """What a drill came to. `lost`, `not_through` and `made_twice` are ids of tasks, `refused` counts tries by reason.

    `not_through` is what was still under way when a drill was interrupted: nobody knows yet whether it is lost.
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


def check(figures: DrillReport) -> None:
    """Raise PromiseBroken unless all that was accepted has its result, its callback, and no second life."""
    where = "Look for their ids in denzel logs --service denzel, and keep this output for a report."
    if figures.lost:
        raise DrillFailed(
            f"Accepted tasks were lost, {len(figures.lost)} of {figures.accepted}: {_few(figures.lost)}.", hint=where
        )
    if figures.made_twice:
        raise DrillFailed(
            f"Requests were made into a second task, {len(figures.made_twice)}: {_few(figures.made_twice)}.", hint=where
        )
    if figures.bad_signatures:
        raise DrillFailed(
            f"Callbacks had a bad signature, {figures.bad_signatures}: {figures.fault}.",
            hint="When CALLBACK_SECRET in .env has changed since the start: denzel restart",
        )
    for part in figures.parts:
        if part.recovered is None:
            raise DrillFailed(f"{part.part} did not recover.", hint="denzel status, then denzel logs")
    if figures.accepted < figures.tasks and not figures.interrupted:
        raise DrillFailed(
            f"Requests were never accepted, {figures.tasks - figures.accepted} of {figures.tasks}.",
            hint="denzel status, then denzel logs --service api",
        )


def as_data(figures: DrillReport) -> dict[str, Any]:
    """The figures as JSON values."""
    return {**asdict(figures), "slowest_recovery": figures.slowest_recovery}


def count(
    *,
    tasks: Collection[SentTask],
    arrivals: Sequence[DrillCallback],
    outages: Sequence[Outage],
    refused: Mapping[str, int],
    wanted: int,
    seconds: float,
    interrupted: bool,
) -> DrillReport:
    """The figures of a drill that was to have `wanted` tasks."""
    repeats = Counter(arrival.task_id for arrival in arrivals)
    by_number = {task.number: task.task_id for task in tasks}
    # A callback on the path of a request, but of another task than its own: the request was accepted twice. Before the
    # answer to a request was heard, its task is not known.
    strangers = {
        arrival.task_id for arrival in arrivals if by_number.get(arrival.number, arrival.task_id) != arrival.task_id
    }
    completed = [task for task in tasks if task.completed]
    failures = [task for task in completed if task.status == FAILURE]
    faults = [arrival.fault for arrival in arrivals if arrival.fault]
    called_back = [task for task in tasks if task.task_id in repeats]
    missing = [task for task in tasks if not task.completed or task.task_id not in repeats]
    # What has come to its end stays as it is; to all the rest, time was not given.
    not_through = [task.task_id for task in missing if interrupted and not (task.settled or task.gone)]
    parts = dict.fromkeys(outage.part for outage in outages)
    return DrillReport(
        tasks=wanted,
        accepted=len(tasks),
        refused=dict(refused),
        completed=len(completed),
        failed=len(failures),
        failure=failures[0].reason if failures else "",
        called_back=len(called_back),
        called_back_twice=sum(repeats[task.task_id] > 1 for task in called_back),
        lost=[task.task_id for task in missing if task.task_id not in not_through],
        not_through=not_through,
        made_twice=sorted(strangers),
        bad_signatures=len(faults),
        fault=faults[0] if faults else "",
        parts=[_part(part, outages, tasks, arrivals) for part in parts],
        seconds=seconds,
        interrupted=interrupted,
    )


def _part(
    part: str, outages: Sequence[Outage], tasks: Collection[SentTask], arrivals: Sequence[DrillCallback]
) -> PartReport:
    own = [outage for outage in outages if outage.part == part]
    recoveries = [outage.over - outage.began for outage in own if outage.over is not None]
    return PartReport(
        part=part,
        killed=len(own),
        recovered=max(recoveries) if len(recoveries) == len(own) else None,
        caught_up=max((late for outage in own for late in _held_up(outage, tasks, arrivals)), default=None),
    )


def _held_up(outage: Outage, tasks: Collection[SentTask], arrivals: Sequence[DrillCallback]) -> list[float]:
    """Seconds after which what was accepted before an outage was done: the task, or the callback for a receiver's."""
    accepted = {task.task_id: task.accepted for task in tasks if task.accepted <= outage.began}
    if outage.of_receiver:
        first: dict[str, float] = {}
        for arrival in arrivals:
            first.setdefault(arrival.task_id, arrival.when)
        done = {task_id: first.get(task_id) for task_id in accepted}
    else:
        done = {task.task_id: task.ended for task in tasks if task.task_id in accepted}
    return [when - outage.began for when in done.values() if when is not None and when > outage.began]


def _few(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
