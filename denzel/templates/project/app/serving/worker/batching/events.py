"""Task events of batches for the dashboard and the log: Celery's, few and in bulk."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from app.serving.store import event_json
from app.serving.store.claims import DeadLettered
from app.serving.store.messages import TASK_NAME, QueuedTask
from app.serving.store.tasks import SUCCESS
from app.serving.worker.batching.in_flight import TaskView
from app.serving.worker.batching.runner import PolledTask, TaskResult
from app.serving.worker.batching.scoreboard import Clock

log = logging.getLogger(__name__)

#: Seconds between two messages to the dashboard, and the most events of one.
FLUSH_INTERVAL = 0.5
MAX_EVENTS_PER_FLUSH = 2000

#: The most events of polled tasks that are created at once, and seconds until the next are: meanwhile other processes
#: may need tasks handed to them.
MAX_EVENTS_AT_ONCE = 100
CREATE_INTERVAL = 0.01

#: The most ended tasks that one line of the log names.
MAX_TASKS_PER_LINE = 16

#: A task as the dashboard shows it: its arguments, since when it had waited, and when it started to run.
TaskInfo = TaskView | PolledTask


class TaskEvents:
    """Sends the events of a worker through the event dispatcher of its consumer.

    Celery sends an event each when a task is received, started and ended. Here a task that ends before it could be
    shown has one event, with all that these contain.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._worker: Any = None
        self._polled: deque[PolledTask] = deque()
        self._next_creation = 0.0
        self._log_entries: list[str] = []
        event_json.register_writer()

    def start(self, worker: Any) -> None:
        """Send the events of this worker."""
        self._worker = worker

    def ended(self, result: TaskResult, task: TaskInfo) -> None:
        """Report the end of a task. Where predict_batch ran it, the time that it took is the batch's."""
        self._log_entries.append(f"{result.task_id} {result.status} in {result.runtime:.3f} s")
        succeeded = result.status == SUCCESS
        shown = {"result": result.result_repr} if succeeded else {"exception": result.result_repr, "traceback": ""}
        self._send(
            "task-succeeded" if succeeded else "task-failed",
            uuid=task.id,
            **_info(task),
            started=task.time_start,
            runtime=result.runtime,
            **shown,
        )

    def polled(self, tasks: Iterable[PolledTask]) -> None:
        """Report the ends of tasks that a process took from the queue itself."""
        self._polled.extend(tasks)

    def started(self, task: TaskInfo) -> None:
        """Report that a task has been running for more than a moment."""
        self._send("task-started", uuid=task.id, **_info(task))

    def dead_lettered(self, task: DeadLettered, info: TaskInfo | None = None) -> None:
        """Report that a task was ended because it killed its process too often."""
        fields = _info(info) if info is not None else {"name": TASK_NAME}
        self._send("task-failed", uuid=task.task_id, **fields, exception=task.reason, traceback="")

    def revoked(self, task: TaskInfo, *, terminated: bool) -> None:
        """Report that a task was cancelled, and its process `terminated` or not."""
        self._send("task-revoked", uuid=task.id, **_info(task), terminated=terminated)

    def cancelled(self, task: QueuedTask) -> None:
        """Report that a task was cancelled in the queue, now that its turn has come."""
        self._send("task-revoked", uuid=task.task_id, **_fields(task.args_repr, task.since), terminated=False)

    def flush(self) -> None:
        """Send the buffered events, and log the tasks that have ended; to be called every FLUSH_INTERVAL seconds."""
        self._create_polled()
        for first in range(0, len(self._log_entries), MAX_TASKS_PER_LINE):
            log.info("ended: %s", ", ".join(self._log_entries[first : first + MAX_TASKS_PER_LINE]))
        self._log_entries.clear()
        dispatcher = self._dispatcher
        if dispatcher is not None:
            # A new one after each time that Redis was away; as Celery makes it, it sends as soon as it can.
            dispatcher.on_send_buffered = None
            dispatcher.buffer_limit = MAX_EVENTS_PER_FLUSH
            dispatcher.serializer = event_json.NAME
            dispatcher.flush()

    def _create_polled(self) -> None:
        now = self._clock()
        # Do not rely on the timer alone: Celery drops its timers when the connection breaks.
        if now < self._next_creation:
            return
        for _ in range(min(len(self._polled), MAX_EVENTS_AT_ONCE)):
            task = self._polled.popleft()
            self.ended(task.result, task)
        if self._polled:
            self._next_creation = now + CREATE_INTERVAL
            self._worker.timer.call_after(CREATE_INTERVAL, self._create_polled)

    @property
    def _dispatcher(self) -> Any:
        consumer = self._worker.consumer
        return consumer and consumer.event_dispatcher

    def _send(self, event: str, **fields: Any) -> None:
        if self._dispatcher is not None:
            self._dispatcher.send(event, **fields)


def _info(task: TaskInfo) -> dict[str, Any]:
    return _fields(task.args_repr, task.since)


def _fields(args_repr: str, since: float) -> dict[str, Any]:
    return {"name": TASK_NAME, "args": args_repr, "kwargs": "{}", "received": since}
