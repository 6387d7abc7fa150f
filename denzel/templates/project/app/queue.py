"""The queue as the api sees it: submit a task, wait for it, look it up, cancel it."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

from redis import Redis, RedisError
from redis.exceptions import OutOfMemoryError

from app.completions import Completions
from app.messages import task_message
from app.records import REVOKED, SUCCESS, Idempotency, KeyReused, QueueFull, TaskRecord, TaskRecords
from app.settings import ResponseMode, Settings
from app.workers import WorkerReport, WorkerReports, WorkerState

__all__ = [
    "REVOKED",
    "SUCCESS",
    "Accepted",
    "BrokerAway",
    "KeyReused",
    "MemoryFull",
    "QueueFull",
    "TaskQueue",
    "TaskRecord",
    "WorkerState",
]

#: What every method of TaskQueue raises when the broker is away, loads its data, or takes no writes.
BrokerAway = RedisError

#: What `submit` raises when the broker has no memory left: a BrokerAway too.
MemoryFull = OutOfMemoryError

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

    def submit(self, verified: Any, *, callback_uri: str | None, idempotency: Idempotency | None = None) -> Accepted:
        """Store a task over `verified` (JSON values); it is on the queue when this returns.

        With a key and body that were accepted before, it is that task. Raises QueueFull, MemoryFull and KeyReused.
        """
        new_id = str(uuid.uuid4())
        task_id, changed = self._records.accept(
            new_id,
            task_message(new_id, verified),
            callback_uri=callback_uri,
            queue_limit=self._settings.queue_limit,
            idempotency=idempotency,
        )
        return Accepted(task_id=task_id, response=changed or self._settings.response)

    def cancel(self, task_id: str) -> str | None:
        """End the task as REVOKED, unless it has ended. Returns its status then; None when there is no such task."""
        return self._records.cancel(task_id, lifetime=self._settings.result_lifetime)

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
