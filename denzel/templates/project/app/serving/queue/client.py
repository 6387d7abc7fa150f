"""Client of the queue for the api: submit a task, wait for it, look it up, cancel it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from redis import Redis, RedisError
from redis.exceptions import OutOfMemoryError

from app.serving.queue.completions import CompletionWatcher, wake
from app.serving.queue.executor import BatchingExecutor
from app.serving.queue.inline import InlineExecutor
from app.serving.queue.streams import TaskStreams
from app.serving.queue.submission import Submission, SubmitResult, TaskRequest, new_id, new_task
from app.serving.queue.waiting import NONE, Preferences, seconds_to_wait
from app.serving.queue.worker_watch import NoWorker, WorkerWatch
from app.serving.settings import Settings
from app.serving.store.loop.connection import LoopConnection, resolve
from app.serving.store.loop.tasks import LoopScript, LoopTaskStore
from app.serving.store.tasks import (
    PENDING,
    Enqueued,
    NewTask,
    QueueFull,
    TaskRecord,
    accept_arguments,
    read_accepted,
)
from app.serving.store.times import QueueSpeed
from app.serving.store.workers import WorkerReport

log = logging.getLogger(__name__)

#: Raised by every method of TaskQueue when Redis is away, loads its data, or is read-only.
BrokerAway = RedisError

#: Raised by `submit` when Redis has no memory left; a BrokerAway, too.
MemoryFull = OutOfMemoryError

#: Seconds for which a request may wait, whatever it asks for; and requests of one process that may wait at once.
MAX_WAIT = 300
MAX_WAITS = 1000

#: Seconds for which a request goes on waiting for a task that runs when the server stops, which has 20 (api.sh).
STOP_WAIT = 15.0

#: Tasks of one process that may wait to be verified and stored: Redis may hang, and verify_input be slow.
MAX_SUBMISSIONS = 2000

#: Requests of one process that may wait for Redis to look a task up, to cancel it, or for the workers' reports.
MAX_LOOKUPS = 2000

#: Seconds for which the measured speed of the queue is remembered.
SPEED_LIFETIME = 1.0

Answer = TypeVar("Answer")


class Overloaded(Exception):
    """Too many tasks wait to be verified and stored; this one was rejected."""


class TaskQueue:
    """The queue in one Redis, for one event loop. Every method raises BrokerAway when Redis is away."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._settings = settings
        self._completions = CompletionWatcher(redis)
        self._connection = self._completions.connection
        self._accept = LoopScript(self._connection, "tasks/accept")
        # Apart from that connection, which a long result would hold up.
        self._lookups = LoopConnection(redis)
        self._store = LoopTaskStore(self._lookups)
        #: The streams of tasks' events, over a connection of their own.
        self.streams = TaskStreams(redis, self.speed)
        self._checks = InlineExecutor(BatchingExecutor(settings.api_threads, "intake"))
        self._workers = WorkerWatch(self._store.workers)
        self._response = settings.response
        self._waits = 0
        self._queries = 0
        self._speed: QueueSpeed | None = None
        self._speed_until = 0.0
        # Until when the requests wait whose tasks run, once the server stops.
        self._stops_at: float | None = None

    async def submit(
        self, prepare: Callable[[], TaskRequest], prefer: Preferences = NONE, *, size: int = 0
    ) -> SubmitResult:
        """Run `prepare`, which has `size` bytes to work on, and enqueue the task that it returns. Then wait for its
        end, where the request prefers that or the deployment does.

        With a key and body that were accepted before, it is that earlier task. Raises what `prepare` raises,
        Overloaded, NoWorker, QueueFull, MemoryFull and KeyReused.
        """
        if self._checks.backlog + self._connection.backlog >= MAX_SUBMISSIONS:
            raise Overloaded
        task_id = new_id()
        task: NewTask = await self._checks.run(lambda: new_task(task_id, prepare(), prefer), size)
        cause = await self._workers.failure() if seconds_to_wait(prefer, self._response) else ""
        if cause and task.idempotency is None:
            raise NoWorker(cause)
        submission = Submission(task_id, prefer, asyncio.get_running_loop().create_future())
        try:
            # A task of before, of the same key, may have ended; no other one is accepted.
            self._enqueue(task, submission, queue_limit=0 if cause else self._settings.queue_limit)
            outcome = await submission.outcome
        except QueueFull:
            if cause:
                raise NoWorker(cause) from None
            raise
        finally:
            self._end(submission)
        if type(outcome) is Enqueued:
            return SubmitResult(task_id=outcome.task_id)
        if outcome is None:
            record = await self._try_to_wait(submission)
        else:
            record = TaskRecord(status=outcome.status, text=outcome.result)
        return SubmitResult(task_id=submission.task_id, waited=True, record=record)

    def _enqueue(self, task: NewTask, submission: Submission, *, queue_limit: int) -> None:
        arguments = accept_arguments(
            task,
            queue_limit=queue_limit,
            synchronous=self._settings.response.synchronous,
            channel=self._completions.channel,
        )
        self._accept.send(arguments, lambda reply, is_repeated: self._on_reply(submission, reply, is_repeated))

    def _on_reply(self, submission: Submission, reply: Any, is_repeated: bool) -> None:
        """Resolve the outcome, or let the end of the task and the deadline do so."""
        outcome, prefer = submission.outcome, submission.prefer
        if outcome.done():  # the request was cancelled
            return
        enqueued = reply if isinstance(reply, RedisError) else read_accepted(reply)
        if isinstance(enqueued, Exception):
            resolve(outcome, enqueued)
            return
        self._response = enqueued.response or self._settings.response
        seconds = seconds_to_wait(prefer, self._response)
        if seconds is None:
            resolve(outcome, enqueued)
            return
        seconds = min(seconds, MAX_WAIT)
        submission.deadline = time.monotonic() + seconds
        # What was announced before a repeated command is missed.
        is_announced = enqueued.task_id == submission.task_id and not is_repeated
        submission.task_id = enqueued.task_id
        if not is_announced or self._waits >= MAX_WAITS or self._stops_at is not None:
            wake(outcome, None)
            return
        self._waits += 1
        submission.is_waiting = True
        self._completions.expect(submission.task_id, outcome)
        submission.timer = asyncio.get_running_loop().call_later(seconds, wake, outcome, None)

    def _end(self, submission: Submission) -> None:
        if submission.is_waiting:
            self._waits -= 1
            self._completions.drop(submission.task_id)
            assert submission.timer is not None
            submission.timer.cancel()

    async def cancel(self, task_id: str) -> str | None:
        """End the task as REVOKED, unless it has ended. Returns its status then; None when there is no such task."""
        return await self._query(lambda: self._store.cancel(task_id, ttl=self._settings.result_lifetime))

    async def find(self, task_id: str) -> TaskRecord | None:
        """The task's record; None when the id was never accepted or has expired."""
        record = await self._query(lambda: self._store.find(task_id))
        if record is None or record.position is None:
            return record
        speed = await self.speed()
        return record if speed is None else replace(record, eta=speed.eta(record.position))

    async def speed(self) -> QueueSpeed | None:
        """The speed at which tasks are run, as of a second ago at most; None while too little is known."""
        if time.monotonic() >= self._speed_until:
            self._speed_until = time.monotonic() + SPEED_LIFETIME
            self._speed = await self._query(self._store.speed)
        return self._speed

    async def wait(self, task_id: str, timeout: float) -> TaskRecord | None:
        """The task's record as soon as it has ended, or as it is after `timeout` seconds.

        Returns at once when too many requests wait already.
        """
        return await self._wait(task_id, time.monotonic() + min(timeout, MAX_WAIT))

    async def workers(self) -> list[WorkerReport]:
        """The reports of the workers, by name."""
        return await self._query(self._store.workers)

    def stop_waiting(self) -> None:
        """Let no request wait for long, as the server stops: one whose task waits itself is answered at once."""
        if self._stops_at is None:
            self._stops_at = time.monotonic() + STOP_WAIT
        self._completions.wake_all()

    def close(self) -> None:
        """End the connections."""
        self._workers.close()
        self.streams.close()
        self._connection.close()
        self._lookups.close()

    async def _query(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        if self._queries >= MAX_LOOKUPS:
            raise BrokerAway("too many requests wait for Redis")
        self._queries += 1
        try:
            return await ask()
        finally:
            self._queries -= 1

    async def _try_to_wait(self, submission: Submission) -> TaskRecord | None:
        """Wait for an accepted task; None when Redis is away, as a client that got that error would send it again."""
        try:
            return await self._wait(submission.task_id, submission.deadline)
        except BrokerAway as error:
            log.warning("task %s is accepted, but cannot be waited for: %s", submission.task_id, error)
            return None

    async def _wait(self, task_id: str, deadline: float) -> TaskRecord | None:
        record = await self.find(task_id)
        if self._waits >= MAX_WAITS:
            return record
        self._waits += 1
        try:
            while record is not None and not record.is_finished and time.monotonic() < self._end_of(deadline, record):
                waiter = await self._completions.watch(task_id)
                try:
                    # It may have ended before that.
                    record = await self.find(task_id)
                    if record is not None and not record.is_finished:
                        await self._completions.wait(waiter, self._end_of(deadline, record))
                        record = await self.find(task_id)
                finally:
                    self._completions.unwatch(task_id, waiter)
            return record
        finally:
            self._waits -= 1

    def _end_of(self, deadline: float, record: TaskRecord) -> float:
        """The deadline of a wait, or an earlier one when the server stops."""
        if self._stops_at is None:
            return deadline
        return 0.0 if record.status == PENDING else min(deadline, self._stops_at)
