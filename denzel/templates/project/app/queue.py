"""The queue as the api sees it: submit a task, wait for it, look it up."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

from redis import Redis, RedisError

from app.completions import Completions
from app.messages import task_message
from app.records import SUCCESS, QueueFull, TaskRecord, TaskRecords
from app.settings import ResponseMode, Settings
from app.workers import WorkerReport, WorkerReports, WorkerState

__all__ = ["SUCCESS", "Accepted", "BrokerAway", "QueueFull", "TaskQueue", "TaskRecord", "WorkerState"]

#: What every method of TaskQueue raises when the broker is away.
BrokerAway = RedisError

#: The longest a request may wait, in seconds, whatever it asks for.
LONGEST_WAIT = 300


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A task that is on the queue, and how the deployment answers at this moment."""

    task_id: str
    response: ResponseMode


class TaskQueue:
    """Every method raises BrokerAway when the broker is away."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._settings = settings
        self._records = TaskRecords(redis)
        self._completions = Completions(redis)
        self._workers = WorkerReports(redis)
        # Some threads stay free, so that a crowd of waiting requests leaves the rest of the api answering.
        self._waits = threading.BoundedSemaphore(settings.api_threads - max(2, settings.api_threads // 8))

    def submit(self, verified: Any, *, callback_uri: str | None) -> Accepted:
        """Store a task over `verified` (JSON values); it is on the queue when this returns. Raises QueueFull."""
        task_id = str(uuid.uuid4())
        task_id, changed = self._records.accept(
            task_id,
            task_message(task_id, verified),
            callback_uri=callback_uri,
            queue_limit=self._settings.queue_limit,
        )
        return Accepted(task_id=task_id, response=changed or self._settings.response)

    def find(self, task_id: str) -> TaskRecord | None:
        """The task's record; None when the id was never accepted or has expired."""
        return self._records.find(task_id)

    def wait(self, task_id: str, timeout: float) -> TaskRecord | None:
        """The task's record as soon as it has ended, or as it is after `timeout` seconds.

        Returns at once when too many requests wait already.
        """
        if not self._waits.acquire(blocking=False):
            return self.find(task_id)
        try:
            return self._wait(task_id, time.monotonic() + min(timeout, LONGEST_WAIT))
        finally:
            self._waits.release()

    def _wait(self, task_id: str, deadline: float) -> TaskRecord | None:
        with self._completions.expect(task_id) as ended:
            while True:
                record = self.find(task_id)
                remaining = deadline - time.monotonic()
                if record is None or record.ended or remaining <= 0:
                    return record
                ended.wait(remaining)
                ended.clear()

    def workers(self) -> list[WorkerReport]:
        """What the workers report of themselves, by name."""
        return self._workers.read()
