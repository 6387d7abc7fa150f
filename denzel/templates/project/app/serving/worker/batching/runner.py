"""Runs a batch in a pool process: several tasks that are handed over together, and whose results return together."""

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

#: The most characters of a result that the dashboard shows.
MAX_RESULT_REPR = 1024


class TaskResult(NamedTuple):
    """A task that has ended: its id and status, the seconds it took, and its result for the dashboard."""

    task_id: str
    status: str
    runtime: float
    result_repr: str


class PolledTask(NamedTuple):
    """A task that a process took from the queue itself, and its result. Times are seconds since 1970."""

    result: TaskResult
    args_repr: str
    since: float
    time_start: float

    @property
    def id(self) -> str:
        """The task's."""
        return self.result.task_id


class BatchResult(NamedTuple):
    """A batch as its pool process returns it: the results, how many tasks wait, and True for a `predict_batch`.

    After polling, also: the tasks that it `polled`; the ids of those it took and did not run, `to_requeue`; and those
    that were `cancelled` in the queue. `seconds` is the time that it was at work, over all `rounds`.
    """

    results: list[TaskResult]
    waiting: int
    predicts_batches: bool
    seconds: float
    polled: Sequence[PolledTask] = ()
    to_requeue: Sequence[str] = ()
    cancelled: Sequence[QueuedTask] = ()
    rounds: int = 1


class RunResult(NamedTuple):
    """Tasks that ran in turn or together, their results, and how many wait."""

    tasks: list[QueuedTask]
    results: list[TaskResult]
    waiting: int
    seconds: float
    time_start: float


class BatchRunner:
    """Runs batches in one pool process."""

    def __init__(self, predictor: Predictor, writer: ResultWriter, claims: Claims, scoreboard: Scoreboard) -> None:
        """The claims are those of the worker."""
        self._predictor = predictor
        self._writer = writer
        self._claims = claims
        self._scoreboard = scoreboard

    def run(self, slot: int, tasks: list[QueuedTask], grant: PollGrant | None = None) -> BatchResult:
        """Run the tasks and store their results, but for those that the scoreboard cuts off.

        With a grant, then poll the queue for a while, and run what it has.
        """
        session = PollSession(self._claims, self._scoreboard, slot, grant) if grant is not None else None
        first = self._run(slot, tasks)
        batch = BatchResult(first.results, first.waiting, self._predictor.predicts_batches, first.seconds)
        return batch if session is None else self._poll(slot, session, batch)

    def _poll(self, slot: int, session: PollSession, batch: BatchResult) -> BatchResult:
        rounds: list[RunResult] = []
        waiting = batch.waiting
        while tasks := session.next(waiting=waiting):
            rounds.append(self._run(slot, tasks))
            waiting = rounds[-1].waiting
        cut_off = [task.task_id for each in rounds for task in each.tasks[len(each.results) :]]
        return batch._replace(
            waiting=waiting,
            seconds=batch.seconds + sum(each.seconds for each in rounds),
            polled=[polled for each in rounds for polled in _polled(each)],
            to_requeue=[*cut_off, *session.to_requeue],
            cancelled=session.cancelled,
            rounds=1 + len(rounds),
        )

    def _run(self, slot: int, tasks: list[QueuedTask]) -> RunResult:
        together = self._predictor.predicts_batches
        time_start = time.time()
        results: list[TaskResult] = []
        seconds = 0.0
        for task, value, runtime in self._together(slot, tasks) if together else self._in_turn(slot, tasks):
            completion = _completion(task, value)
            if isinstance(value, BaseException):
                log.error("task %s[%s] failed", TASK_NAME, task.task_id, exc_info=value)
            shown = completion.result[:MAX_RESULT_REPR]
            results.append(TaskResult(task.task_id, completion.status, runtime, shown))
            seconds = runtime if together else seconds + runtime
            self._writer.add(completion, more=not together and len(results) < len(tasks))
        return RunResult(tasks, results, self._writer.flush(), seconds, time_start)

    def _in_turn(self, slot: int, tasks: list[QueuedTask]) -> Iterator[tuple[QueuedTask, Any, float]]:
        for index, task in enumerate(tasks):
            if not self._scoreboard.start(slot, index):
                return
            started = time.perf_counter()
            value = self._predict(task)
            yield task, value, time.perf_counter() - started
        self._scoreboard.start(slot, len(tasks))

    def _together(self, slot: int, tasks: list[QueuedTask]) -> Iterator[tuple[QueuedTask, Any, float]]:
        self._scoreboard.start(slot, ALL)
        started = time.perf_counter()
        values = self._predictor.predict_batch([decode_input(task) for task in tasks])
        self._scoreboard.start(slot, len(tasks))
        runtime = time.perf_counter() - started
        for task, value in zip(tasks, values, strict=True):
            yield task, value, runtime

    def _predict(self, task: QueuedTask) -> Any:
        try:
            return self._predictor.predict(decode_input(task))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if ends_process(error):
                raise
            return error


def _polled(run: RunResult) -> Iterator[PolledTask]:
    for task, result in zip(run.tasks, run.results, strict=False):
        yield PolledTask(result, task.args_repr, task.since, run.time_start)


def _completion(task: QueuedTask, value: Any) -> Completion:
    failed = isinstance(value, BaseException)
    return Completion(
        task_id=task.task_id,
        tag=task.task_id,
        status=FAILURE if failed else SUCCESS,
        result=json.dumps(failure(value) if failed else value),
    )
