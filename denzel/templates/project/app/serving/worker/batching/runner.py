"""Running a parcel: several tasks that a pool process has in one go, and whose ends are told in one go."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from app.serving.errors import ends_process, failure
from app.serving.store.claims import Claims
from app.serving.store.messages import TASK_NAME, QueuedTask, decode_input
from app.serving.store.tasks import FAILURE, SUCCESS, Completion
from app.serving.worker.batching.poller import PollGrant, PollSession
from app.serving.worker.batching.result_writer import ResultWriter
from app.serving.worker.batching.scoreboard import ALL, Scoreboard
from app.serving.worker.model.predictor import Predictor

log = logging.getLogger(__name__)

#: The dashboard shows results up to this many characters.
SHOWN_RESULT = 1024


class TaskResult(NamedTuple):
    """One task that has ended: its id and status, the seconds it took, and its result for the dashboard."""

    task_id: str
    status: str
    runtime: float
    shown: str


class PolledTask(NamedTuple):
    """A task that a process took from the queue itself, and how it ended. Times are seconds since 1970."""

    ended: TaskResult
    args_repr: str
    since: float
    time_start: float

    @property
    def id(self) -> str:
        """The task's."""
        return self.ended.task_id


class BatchResult(NamedTuple):
    """What a pool process says of a parcel: the tasks that ended, how many wait, whether it predicts batches.

    Where it stayed at the queue then: what it did `further`; the ids of tasks that it took and has `left`; and those
    that were `cancelled` while they waited. And for how many seconds it was at work, over all `rounds`.
    """

    ended: list[TaskResult]
    waiting: int
    predicts_batches: bool
    seconds: float
    further: Sequence[PolledTask] = ()
    left: Sequence[str] = ()
    cancelled: Sequence[QueuedTask] = ()
    rounds: int = 1


class RunResult(NamedTuple):
    """Tasks that were run one after the other or together: how they ended, and how many wait."""

    items: list[QueuedTask]
    ended: list[TaskResult]
    waiting: int
    seconds: float
    time_start: float


class BatchRunner:
    """Runs parcels in one pool process."""

    def __init__(self, predictor: Predictor, telling: ResultWriter, claims: Claims, scoreboard: Scoreboard) -> None:
        """The claims are those of the worker."""
        self._predictor = predictor
        self._telling = telling
        self._claims = claims
        self._scoreboard = scoreboard

    def run(self, slot: int, items: list[QueuedTask], stay: PollGrant | None = None) -> BatchResult:
        """Run the tasks, and store how each ended. What the scoreboard cuts off does not run.

        With leave to stay, take and run then what the queue has next, for a while.
        """
        visit = PollSession(self._claims, self._scoreboard, slot, stay) if stay is not None else None
        first = self._run(slot, items)
        outcome = BatchResult(first.ended, first.waiting, self._predictor.predicts_batches, first.seconds)
        return outcome if visit is None else self._stay(slot, visit, outcome)

    def _stay(self, slot: int, visit: PollSession, outcome: BatchResult) -> BatchResult:
        rounds: list[RunResult] = []
        waiting = outcome.waiting
        while items := visit.next(waiting=waiting):
            rounds.append(self._run(slot, items))
            waiting = rounds[-1].waiting
        left_out = [item.task_id for each in rounds for item in each.items[len(each.ended) :]]
        return outcome._replace(
            waiting=waiting,
            seconds=outcome.seconds + sum(each.seconds for each in rounds),
            further=[further for each in rounds for further in _further(each)],
            left=[*left_out, *visit.left],
            cancelled=visit.cancelled,
            rounds=1 + len(rounds),
        )

    def _run(self, slot: int, items: list[QueuedTask]) -> RunResult:
        batch = self._predictor.predicts_batches
        time_start = time.time()
        ended: list[TaskResult] = []
        seconds = 0.0
        for item, result, runtime in self._together(slot, items) if batch else self._in_turn(slot, items):
            end = _end(item, result)
            if isinstance(result, BaseException):
                log.error("task %s[%s] failed", TASK_NAME, item.task_id, exc_info=result)
            ended.append(TaskResult(item.task_id, end.status, runtime, end.result[:SHOWN_RESULT]))
            seconds = runtime if batch else seconds + runtime
            self._telling.add(end, more=not batch and len(ended) < len(items))
        return RunResult(items, ended, self._telling.tell(), seconds, time_start)

    def _in_turn(self, slot: int, items: list[QueuedTask]) -> Iterator[tuple[QueuedTask, Any, float]]:
        for place, item in enumerate(items):
            if not self._scoreboard.start(slot, place):
                return
            started = time.perf_counter()
            result = self._predict(item)
            yield item, result, time.perf_counter() - started
        self._scoreboard.start(slot, len(items))

    def _together(self, slot: int, items: list[QueuedTask]) -> Iterator[tuple[QueuedTask, Any, float]]:
        self._scoreboard.start(slot, ALL)
        started = time.perf_counter()
        results = self._predictor.predict_batch([decode_input(item) for item in items])
        self._scoreboard.start(slot, len(items))
        runtime = time.perf_counter() - started
        for item, result in zip(items, results, strict=True):
            yield item, result, runtime

    def _predict(self, item: QueuedTask) -> Any:
        try:
            return self._predictor.predict(decode_input(item))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if ends_process(error):
                raise
            return error


def _further(each: RunResult) -> Iterator[PolledTask]:
    for item, ended in zip(each.items, each.ended, strict=False):
        yield PolledTask(ended, item.args_repr, item.since, each.time_start)


def _end(item: QueuedTask, result: Any) -> Completion:
    failed = isinstance(result, BaseException)
    return Completion(
        task_id=item.task_id,
        tag=item.task_id,
        status=FAILURE if failed else SUCCESS,
        result=json.dumps(failure(result) if failed else result),
    )
