"""Client of the queue for the api: submit a task, wait for it, look it up, cancel it."""

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
from app.serving.store.tasks import Enqueued, Idempotency, NewTask, TaskRecord, TaskStore
from app.serving.store.workers import WorkerRegistry, WorkerReport

log = logging.getLogger(__name__)

#: Raised by every method of TaskQueue when Redis is away, loads its data, or is read-only.
BrokerAway = RedisError

#: Raised by `submit` when Redis has no memory left; a BrokerAway, too.
MemoryFull = OutOfMemoryError

#: Seconds for which a request may wait, whatever it asks for; and requests of one process that may wait at once.
MAX_WAIT = 300
MAX_WAITS = 1000

#: Tasks of one process that may wait to be verified and stored: Redis may hang, and verify_input be slow.
MAX_SUBMISSIONS = 2000

#: Threads that look up, cancel, and read the workers' reports: `verify_input` cannot block these. And requests of one
#: process that may wait for such a thread.
LOOKUP_THREADS = 4
MAX_LOOKUPS = 2000


class Overloaded(Exception):
    """Too many tasks wait to be verified and stored; this one was rejected."""


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """A task to submit: what verify_input returned (JSON values), where its callback goes, its idempotency key."""

    verified: Any
    callback_uri: str | None = None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, kw_only=True)
class SubmitResult:
    """A task on the queue. `waited` is True when the request waited for its end; `record` is then the task as it was
    after that, or None when it could not be read.
    """

    task_id: str
    waited: bool = False
    record: TaskRecord | None = None


class TaskQueue:
    """The queue in one Redis, for one event loop. Every method raises BrokerAway when Redis is away."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._settings = settings
        self._store = TaskStore(redis)
        self._workers = WorkerRegistry(redis)
        self._completions = CompletionWatcher(connect_loop(redis))
        self._intake = BatchingExecutor(settings.api_threads, "intake", self._enqueue)
        self._lookups = BatchingExecutor(LOOKUP_THREADS, "lookup")
        self._fail_fast = FailFast()
        self._waits = 0

    async def submit(self, prepare: Callable[[], TaskRequest], prefer: Preferences = NONE) -> SubmitResult:
        """Run `prepare` in a thread, and enqueue the task that it returns. Then wait for its end, where the request
        prefers that or the deployment does.

        With a key and body that were accepted before, it is that earlier task. Raises what `prepare` raises,
        Overloaded, QueueFull, MemoryFull and KeyReused.
        """
        if self._intake.backlog >= MAX_SUBMISSIONS:
            raise Overloaded
        task_id = str(uuid.uuid4())
        # Before the task can end. The deployment's response mode is known only when the task is accepted.
        may_wait = prefer.wait is not None or not prefer.respond_async
        waiter = self._completions.subscribe(task_id) if may_wait else None
        try:
            since = time.monotonic()
            enqueued: Enqueued = await self._intake.run(lambda: self._prepare(since, task_id, prepare, prefer))
            seconds = seconds_to_wait(prefer, enqueued.response or self._settings.response)
            if seconds is None or waiter is None:
                return SubmitResult(task_id=enqueued.task_id)
            is_new = enqueued.task_id == task_id
            record = await self._try_to_wait(enqueued.task_id, seconds, waiter if is_new else None)
            return SubmitResult(task_id=enqueued.task_id, waited=True, record=record)
        finally:
            if waiter is not None:
                self._completions.unsubscribe(task_id, waiter)

    def _prepare(
        self, since: float, task_id: str, prepare: Callable[[], TaskRequest], prefer: Preferences
    ) -> tuple[float, NewTask]:
        self._fail_fast.check(since)
        return since, _new_task(task_id, prepare(), prefer)

    def _enqueue(self, prepared: list[tuple[float, NewTask]]) -> list[Enqueued | Exception]:
        self._fail_fast.check(max(since for since, _ in prepared))
        return self._fail_fast.call(
            lambda: self._store.enqueue_many(
                [task for _, task in prepared],
                queue_limit=self._settings.queue_limit,
                synchronous=self._settings.response.synchronous,
            )
        )

    async def _query(self, command: Callable[[], Any]) -> Any:
        """The answer of Redis to `command`, which runs in a thread."""
        if self._lookups.backlog >= MAX_LOOKUPS:
            raise BrokerAway("too many requests wait for Redis")
        since = time.monotonic()

        def query() -> Any:
            self._fail_fast.check(since)
            return self._fail_fast.call(command)

        return await self._lookups.run(query)

    async def cancel(self, task_id: str) -> str | None:
        """End the task as REVOKED, unless it has ended. Returns its status then; None when there is no such task."""
        ttl = self._settings.result_lifetime
        status: str | None = await self._query(lambda: self._store.cancel(task_id, ttl=ttl))
        return status

    async def find(self, task_id: str) -> TaskRecord | None:
        """The task's record; None when the id was never accepted or has expired."""
        record: TaskRecord | None = await self._query(lambda: self._store.find(task_id, parse=False))
        return record

    async def wait(self, task_id: str, timeout: float) -> TaskRecord | None:
        """The task's record as soon as it has ended, or as it is after `timeout` seconds.

        Returns at once when too many requests wait already.
        """
        return await self._wait(task_id, timeout, None)

    async def workers(self) -> list[WorkerReport]:
        """The reports of the workers, by name."""
        reports: list[WorkerReport] = await self._query(self._workers.read)
        return reports

    async def _try_to_wait(self, task_id: str, timeout: float, waiter: Waiter | None) -> TaskRecord | None:
        """Wait for an accepted task; None when Redis is away, as a client that got that error would send it again."""
        try:
            return await self._wait(task_id, timeout, waiter)
        except BrokerAway as error:
            log.warning("task %s is accepted, but cannot be waited for: %s", task_id, error)
            return None

    async def _wait(self, task_id: str, timeout: float, waiter: Waiter | None) -> TaskRecord | None:
        """Wait for a task's end. Without a `waiter` it may have ended already, and its whole record is returned."""
        with_record = waiter is None
        if self._waits >= MAX_WAITS:
            return await self.find(task_id)
        deadline = time.monotonic() + min(timeout, MAX_WAIT)
        self._waits += 1
        try:
            while True:
                if waiter is not None:
                    notice = await self._completions.wait(waiter, deadline)
                    if notice is not None and not with_record:
                        return TaskRecord(status=notice.status, text=notice.result)
                    self._completions.unsubscribe(task_id, waiter)
                waiter = self._completions.subscribe(task_id)
                record = await self.find(task_id)
                if record is None or record.is_finished or time.monotonic() >= deadline:
                    return record
        finally:
            self._waits -= 1
            if waiter is not None:
                self._completions.unsubscribe(task_id, waiter)


def _new_task(task_id: str, request: TaskRequest, prefer: Preferences) -> NewTask:
    return NewTask(
        task_id=task_id,
        message=task_message(task_id, request.verified),
        callback_uri=request.callback_uri,
        idempotency=request.idempotency,
        prefer="wait" if prefer.wait is not None else "respond-async" if prefer.respond_async else "",
    )
