"""Celery's events of tasks, for the dashboard, and the log of a process: few and in bulk."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from celery import Celery
from celery.events import EventDispatcher
from kombu.exceptions import OperationalError
from redis import RedisError

from app.serving.store import event_json
from app.serving.store.connection import TIMEOUT
from app.serving.store.messages import TASK_NAME, QueuedTask
from app.serving.store.tasks import SUCCESS
from app.serving.worker.batching.runner import TaskResult
from app.serving.worker.batching.scoreboard import Clock

log = logging.getLogger(__name__)

#: Seconds between two messages to the dashboard, and the most events of one.
FLUSH_INTERVAL = 0.5
MAX_EVENTS_PER_FLUSH = 200

#: The most characters of a result that the dashboard shows, and the most ended tasks that one line of the log names.
MAX_RESULT_REPR = 1024
MAX_TASKS_PER_LINE = 16


class TaskEvents:
    """The events of one process, under the name of its worker.

    Celery sends an event each when a task is received, started and ended. Here a task has one event at its end, with
    all that these contain; the worker reports the start of those that take long (worker/node.py).
    """

    def __init__(self, celery_app: Celery, worker: str, *, clock: Clock = time.monotonic) -> None:
        """Make it in the process that uses it: its connection survives no fork."""
        event_json.register_writer()
        self._dispatcher = EventDispatcher(
            celery_app.connection_for_write(transport_options={"socket_timeout": TIMEOUT}),
            hostname=worker,
            app=celery_app,
            serializer=event_json.NAME,
            buffer_group=frozenset({"task"}),
            buffer_limit=MAX_EVENTS_PER_FLUSH,
            buffer_while_offline=False,
        )
        self._clock = clock
        self._flushed_at = clock()
        self._log_entries: list[str] = []
        self._has_events = False

    def ended(self, results: Iterable[TaskResult]) -> None:
        """Report the ends of tasks. Where predict_batch ran them, the time that each took is the batch's."""
        for result in results:
            status, text = result.completion.status, result.completion.result[:MAX_RESULT_REPR]
            self._log_entries.append(f"{result.task.task_id} {status} in {result.runtime:.3f} s")
            shown = {"result": text} if status == SUCCESS else {"exception": text, "traceback": ""}
            self._send(
                "task-succeeded" if status == SUCCESS else "task-failed",
                result.task,
                started=result.time_start,
                runtime=result.runtime,
                **shown,
            )

    def revoked(self, tasks: Iterable[QueuedTask]) -> None:
        """Report that tasks were cancelled in the queue, now that their turn has come."""
        for task in tasks:
            self._send("task-revoked", task, terminated=False)

    def flush(self, *, is_idle: bool = False) -> None:
        """Send the buffered events, and log the tasks that have ended, unless that was done just now."""
        now = self._clock()
        if not self._has_events or (now - self._flushed_at < FLUSH_INTERVAL and not is_idle):
            return
        self._flushed_at = now
        for first in range(0, len(self._log_entries), MAX_TASKS_PER_LINE):
            log.info("ended: %s", ", ".join(self._log_entries[first : first + MAX_TASKS_PER_LINE]))
        self._log_entries.clear()
        self._has_events = False
        self._attempt(self._dispatcher.flush)

    def _send(self, event: str, task: QueuedTask, **fields: Any) -> None:
        self._has_events = True
        self._attempt(self._dispatcher.send, event, uuid=task.task_id, **task_fields(task), **fields)

    def _attempt(self, send: Any, *arguments: Any, **fields: Any) -> None:
        try:
            send(*arguments, **fields)
        except (RedisError, OperationalError, OSError) as error:
            # The dashboard may miss some; the records of the tasks do not.
            log.warning("events could not be sent: %s", error)


def task_fields(task: QueuedTask) -> dict[str, Any]:
    """The fields of an event that describe a task."""
    return {"name": TASK_NAME, "args": task.args_repr, "kwargs": "{}", "received": task.since}
