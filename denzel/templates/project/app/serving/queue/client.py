"""The queue as the api sees it: submit a task, wait for it, look it up, cancel it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis import Redis, RedisError
from redis.exceptions import OutOfMemoryError

from app.serving.queue.completions import CompletionWatcher, Waiter
from app.serving.queue.executor import BatchingExecutor
from app.serving.queue.fail_fast import FailFast
from app.serving.queue.waiting import NONE, Preferences, seconds_to_wait
from app.serving.settings import Settings
from app.serving.store.connection import connect_loop
from app.serving.store.messages import task_message
from app.serving.store.tasks import (
    REVOKED,
    SUCCESS,
    Enqueued,
    Idempotency,
    KeyReused,
    NewTask,
    QueueFull,
    TaskRecord,
    TaskStore,
)
from app.serving.store.workers import WorkerRegistry, WorkerReport, WorkerState

__all__ = [
    "REVOKED",
    "SUCCESS",
    "BrokerAway",
    "KeyReused",
    "MemoryFull",
    "Overloaded",
    "QueueFull",
    "SubmitResult",
    "TaskQueue",
    "TaskRecord",
    "TaskRequest",
    "WorkerState",
]

log = logging.getLogger(__name__)

#: What every method of TaskQueue raises when the broker is away, loads its data, or takes no writes.
BrokerAway = RedisError

#: What `submit` raises when the broker has no memory left: a BrokerAway too.
MemoryFull = OutOfMemoryError

#: The longest a request may wait, in seconds, whatever it asks for; and how many may wait at once in one process.
MAX_WAIT = 300
MAX_WAITS = 1000

#: How many tasks may wait in one process until they are checked and stored: Redis may hang, and verify_input be slow.
MAX_SUBMISSIONS = 2000

#: Threads that look up, cancel, and ask for the workers: `verify_input` cannot hold these. And how many requests may
#: wait for one of them in one process.
LOOKUP_THREADS = 4
MAX_LOOKUPS = 2000


class Overloaded(Exception):
    """Too many tasks wait to be checked and stored; this one was not."""


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """What a task is made of: what verify_input returned (JSON values), where its callback goes, its key."""

    verified: Any
    callback_uri: str | None = None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, kw_only=True)
class SubmitResult:
    """A task that is on the queue. If its end was to be waited for, `waited` says so; `record` is then the task as it
    was at the end of the wait, or None when that is not known.
    """

    task_id: str
    waited: bool = False
    record: TaskRecord | None = None


class TaskQueue:
    """Every method raises BrokerAway when the broker is away. All of it belongs to one event loop."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._settings = settings
        self._records = TaskStore(redis)
        self._workers = WorkerRegistry(redis)
        self._completions = CompletionWatcher(connect_loop(redis))
        self._intake = BatchingExecutor(settings.api_threads, "intake", self._store)
        self._lookups = BatchingExecutor(LOOKUP_THREADS, "lookup")
        self._patience = FailFast()
        self._waits = 0

    async def submit(self, prepare: Callable[[], TaskRequest], prefer: Preferences = NONE) -> SubmitResult:
        """Store the task that `prepare` makes, in a thread; it is on the queue when this returns. Then wait for its end
        where the request prefers that, or the deployment does.

        With a key and body that were accepted before, it is that task. Raises what `prepare` raises, Overloaded,
        QueueFull, MemoryFull and KeyReused.
        """
        if self._intake.waiting >= MAX_SUBMISSIONS:
            raise Overloaded
        task_id = str(uuid.uuid4())
        # Before the task can end. How the deployment answers is known only when the task is accepted.
        end = self._completions.expect(task_id) if prefer.wait is not None or not prefer.respond_async else None
        try:
            since = time.monotonic()
            acceptance: Enqueued = await self._intake.run(lambda: self._prepare(since, task_id, prepare, prefer))
            seconds = seconds_to_wait(prefer, acceptance.response or self._settings.response)
            if seconds is None or end is None:
                return SubmitResult(task_id=acceptance.task_id)
            if acceptance.task_id != task_id:
                record = await self._try_to_wait(acceptance.task_id, seconds, None)
            else:
                record = await self._try_to_wait(task_id, seconds, end)
            return SubmitResult(task_id=acceptance.task_id, waited=True, record=record)
        finally:
            if end is not None:
                self._completions.forget(task_id, end)

    def _prepare(
        self, since: float, task_id: str, prepare: Callable[[], TaskRequest], prefer: Preferences
    ) -> tuple[float, NewTask]:
        self._patience.check(since)
        return since, _new_task(task_id, prepare(), prefer)

    def _store(self, prepared: list[tuple[float, NewTask]]) -> list[Enqueued | Exception]:
        self._patience.check(max(since for since, _ in prepared))
        return self._patience.ask(
            lambda: self._records.enqueue_many(
                [task for _, task in prepared],
                queue_limit=self._settings.queue_limit,
                synchronous=self._settings.response.synchronous,
            )
        )

    async def _look(self, ask: Callable[[], Any]) -> Any:
        """What is asked of Redis, in a thread."""
        if self._lookups.waiting >= MAX_LOOKUPS:
            raise BrokerAway("too many requests wait for Redis")
        since = time.monotonic()

        def look() -> Any:
            self._patience.check(since)
            return self._patience.ask(ask)

        return await self._lookups.run(look)

    async def cancel(self, task_id: str) -> str | None:
        """End the task as REVOKED, unless it has ended. Returns its status then; None when there is no such task."""
        lifetime = self._settings.result_lifetime
        status: str | None = await self._look(lambda: self._records.cancel(task_id, ttl=lifetime))
        return status

    async def find(self, task_id: str) -> TaskRecord | None:
        """The task's record; None when the id was never accepted or has expired."""
        record: TaskRecord | None = await self._look(lambda: self._records.find(task_id, parse=False))
        return record

    async def wait(self, task_id: str, timeout: float) -> TaskRecord | None:
        """The task's record as soon as it has ended, or as it is after `timeout` seconds.

        Returns at once when too many requests wait already.
        """
        return await self._wait(task_id, timeout, None)

    async def workers(self) -> list[WorkerReport]:
        """What the workers report of themselves, by name."""
        reports: list[WorkerReport] = await self._look(self._workers.read)
        return reports

    async def _try_to_wait(self, task_id: str, timeout: float, end: Waiter | None) -> TaskRecord | None:
        """The task is accepted: to say that the broker is away would have it sent again."""
        try:
            return await self._wait(task_id, timeout, end)
        except BrokerAway as error:
            log.warning("task %s is accepted, but cannot be waited for: %s", task_id, error)
            return None

    async def _wait(self, task_id: str, timeout: float, end: Waiter | None) -> TaskRecord | None:
        """Without an `end`, the task may have ended already."""
        if self._waits >= MAX_WAITS:
            return await self.find(task_id)
        deadline = time.monotonic() + min(timeout, MAX_WAIT)
        self._waits += 1
        try:
            while True:
                if end is not None:
                    ended = await self._completions.until(end, deadline)
                    if ended is not None:
                        return TaskRecord(status=ended.status, text=ended.result)
                    self._completions.forget(task_id, end)
                end = self._completions.expect(task_id)
                record = await self.find(task_id)
                if record is None or record.is_finished or time.monotonic() >= deadline:
                    return record
        finally:
            self._waits -= 1
            if end is not None:
                self._completions.forget(task_id, end)


def _new_task(task_id: str, submission: TaskRequest, prefer: Preferences) -> NewTask:
    return NewTask(
        task_id=task_id,
        message=task_message(task_id, submission.verified),
        callback_uri=submission.callback_uri,
        idempotency=submission.idempotency,
        prefer="wait" if prefer.wait is not None else "respond-async" if prefer.respond_async else "",
    )
