"""Celery's events of tasks, for the dashboard, and the log of a process: few and in bulk."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from celery import Celery
from celery.events.event import get_exchange
from celery.utils.time import utcoffset
from kombu import Producer
from kombu.exceptions import OperationalError
from redis import RedisError

from app.serving.errors import stored_reason
from app.serving.store import event_json
from app.serving.store.connection import TIMEOUT
from app.serving.store.messages import TASK_NAME, QueuedTask
from app.serving.store.tasks import SUCCESS
from app.serving.worker.batching.runner import TaskResult
from app.serving.worker.batching.scoreboard import Clock

log = logging.getLogger(__name__)

#: Seconds between two messages to the dashboard, and the number of events for which one is sent sooner.
FLUSH_INTERVAL = 0.5
MAX_EVENTS_PER_FLUSH = 200

#: The most characters of a result that the dashboard shows, and the most ended tasks that one line of the log names.
MAX_RESULT_REPR = 1024
MAX_TASKS_PER_LINE = 16


class TaskEvents:
    """The events of one process, under the name of its worker, in Celery's form of a group of events.

    Celery sends an event each when a task is received, started and ended. Here a task has one event at its end, with
    all that these contain; the worker reports the start of those that take long (worker/node.py).
    """

    def __init__(self, celery_app: Celery, worker: str, *, clock: Clock = time.monotonic) -> None:
        """Make it in the process that uses it: its connection survives no fork."""
        event_json.register_writer()
        self._app = celery_app
        self._worker = worker
        self._clock = clock
        self._flushed_at = clock()
        self._ended: list[TaskResult] = []
        self._revoked: list[QueuedTask] = []
        connection = celery_app.connection_for_write(transport_options={"socket_timeout": TIMEOUT})
        self._exchange = get_exchange(connection, name=celery_app.conf.event_exchange)
        self._producer = Producer(connection, self._exchange, serializer=event_json.NAME, auto_declare=False)

    def ended(self, results: list[TaskResult]) -> None:
        """Report the ends of tasks. Where predict_batch ran them, the time that each took is the batch's."""
        self._ended += results

    def revoked(self, tasks: list[QueuedTask]) -> None:
        """Report that tasks were cancelled in the queue, now that their turn has come."""
        self._revoked += tasks

    def flush(self, *, is_idle: bool = False) -> None:
        """Send the buffered events, and log the tasks that have ended, unless that was done just now."""
        now = self._clock()
        is_due = is_idle or now - self._flushed_at >= FLUSH_INTERVAL or len(self._ended) >= MAX_EVENTS_PER_FLUSH
        if not is_due or not (self._ended or self._revoked):
            return
        self._flushed_at = now
        ended, self._ended, revoked, self._revoked = self._ended, [], self._revoked, []
        lines = [f"{one.task.task_id} {one.completion.status} in {one.runtime:.3f} s" for one in ended]
        for first in range(0, len(lines), MAX_TASKS_PER_LINE):
            log.info("ended: %s", ", ".join(lines[first : first + MAX_TASKS_PER_LINE]))
        events = [_end(result) for result in ended]
        events += [{"type": "task-revoked", "terminated": False, **task_fields(task)} for task in revoked]
        common = {
            "hostname": self._worker,
            "utcoffset": utcoffset(),
            "pid": os.getpid(),
            "clock": self._app.clock.forward(),
            "timestamp": time.time(),
        }
        try:
            self._producer.publish(
                [event | common for event in events],
                routing_key="task.multi",
                headers={"hostname": self._worker},
                delivery_mode=1,
                declare=[self._exchange],
            )
        except (RedisError, OperationalError, OSError) as error:
            # The dashboard misses them; the records of the tasks do not.
            log.warning("%d events could not be sent: %s", len(events), error)


def _end(result: TaskResult) -> dict[str, Any]:
    times = {"started": result.time_start, "runtime": result.runtime}
    if result.completion.status == SUCCESS:
        text = result.completion.result[:MAX_RESULT_REPR]
        return {"type": "task-succeeded", "result": text, **times, **task_fields(result.task)}
    text = stored_reason(result.completion.result)[:MAX_RESULT_REPR]
    return {"type": "task-failed", "exception": text, "traceback": "", **times, **task_fields(result.task)}


def task_fields(task: QueuedTask) -> dict[str, Any]:
    """The fields of an event that describe a task."""
    return {
        "uuid": task.task_id,
        "name": TASK_NAME,
        "args": task.args_repr,
        "kwargs": "{}",
        "received": task.since,
    }
