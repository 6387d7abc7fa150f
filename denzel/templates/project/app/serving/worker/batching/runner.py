"""Runner of batches: the pipeline over the tasks of one batch, in turn or together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from app.serving.errors import BadInput, failure, message
from app.serving.json_values import json_text
from app.serving.logs.current import logged_as
from app.serving.running_task import set_delivered
from app.serving.store.messages import TASK_NAME, QueuedTask, decode_input
from app.serving.store.tasks import FAILURE, SUCCESS, Completion
from app.serving.worker.batching.result_buffer import ResultBuffer
from app.serving.worker.batching.scoreboard import ALL, Slot
from app.serving.worker.model.predictor import Predictor

log = logging.getLogger(__name__)


class TaskResult(NamedTuple):
    """A task that has ended, how, when it started to run (seconds since 1970), and the seconds that it took."""

    task: QueuedTask
    completion: Completion
    time_start: float
    runtime: float


class BatchRunner:
    """Runs batches in one process, and publishes on its slot which task runs."""

    def __init__(
        self,
        predictor: Predictor,
        results: ResultBuffer,
        slot: Slot,
        *,
        flush_reports: Callable[[], None] = lambda: None,
    ) -> None:
        """`flush_reports` is called between a task and its end: what it has reported is stored first."""
        self._predictor = predictor
        self._results = results
        self._slot = slot
        self._flush_reports = flush_reports

    def run(self, tasks: list[QueuedTask]) -> list[TaskResult]:
        """Run the tasks, and buffer their results. Those that the worker cuts off are missing."""
        set_delivered({task.task_id: task for task in tasks})
        together = self._predictor.predicts_batches
        ended: list[TaskResult] = []
        for result in self._together(tasks) if together else self._in_turn(tasks):
            ended.append(result)
            self._results.add(result.completion, more=not together and len(ended) < len(tasks))
        self._slot.count(len(ended))
        return ended

    def _in_turn(self, tasks: list[QueuedTask]) -> Iterator[TaskResult]:
        for index, task in enumerate(tasks):
            if not self._slot.start(index):
                break
            with logged_as(task.task_id):
                time_start, began = time.time(), time.perf_counter()
                value = self._predict(task)
                runtime = time.perf_counter() - began
                self._slot.pause()
                self._flush_reports()
                result = _result(task, value, time_start, runtime)
            yield result
        self._slot.start(len(tasks))

    def _together(self, tasks: list[QueuedTask]) -> Iterator[TaskResult]:
        self._slot.start(ALL)
        time_start, began = time.time(), time.perf_counter()
        inputs = [_attempt_decode(task) for task in tasks]
        readable = [one for one in inputs if not isinstance(one, _Unreadable)]
        ids = [task.task_id for task, one in zip(tasks, inputs, strict=True) if not isinstance(one, _Unreadable)]
        values = iter(self._predictor.predict_batch(readable, ids) if readable else ())
        runtime = time.perf_counter() - began
        self._slot.start(len(tasks))
        self._flush_reports()
        for task, one in zip(tasks, inputs, strict=True):
            value = one.error if isinstance(one, _Unreadable) else next(values)
            with logged_as(task.task_id):
                result = _result(task, value, time_start, runtime)
            yield result

    def _predict(self, task: QueuedTask) -> Any:
        try:
            return self._predictor.predict(decode_input(task))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 (the user's own code)
            return error


class _Unreadable(NamedTuple):
    """Another client's arguments that our task does not take."""

    error: Exception


def _attempt_decode(task: QueuedTask) -> Any:
    try:
        return decode_input(task)
    except (TypeError, ValueError) as error:
        return _Unreadable(error)


def _result(task: QueuedTask, value: Any, time_start: float, runtime: float) -> TaskResult:
    failed = isinstance(value, BaseException)
    if isinstance(value, BadInput):
        log.info("task %s[%s] had a bad input: %s", TASK_NAME, task.task_id, message(value))
    elif failed:
        log.error("task %s[%s] failed", TASK_NAME, task.task_id, exc_info=value)
    result = json_text(failure(value) if failed else value)
    return TaskResult(task, Completion(task.task_id, FAILURE if failed else SUCCESS, result), time_start, runtime)
