"""Watcher that wakes requests when their tasks end: one subscription for the whole process.

The end of a task that was accepted for a request that waits is announced to the process of that request alone, with
the result. All ends are announced on the common channel, to which a process listens while it waits for other tasks.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any, NamedTuple

import orjson
from redis import Redis

from app.serving.store import keys
from app.serving.store.loop.connection import LoopConnection

log = logging.getLogger(__name__)


class CompletionNotice(NamedTuple):
    """The announced end of a task: its status, and its result as the JSON that is stored."""

    status: str
    result: str


#: A request that waits: resolved with the end of its task, or with None when the task is to be looked up.
Waiter = asyncio.Future[Any]


class CompletionWatcher:
    """The waiters of one process, and the connection that resolves them.

    The connection is for commands, too: what is announced after one of them was executed arrives behind its reply.
    """

    def __init__(self, redis: Redis) -> None:
        #: Where the ends of tasks are announced for which `expect` waits.
        self.channel = keys.completions(uuid.uuid4().hex)
        self._expected: dict[str, Waiter] = {}
        self._watched: dict[str, list[Waiter]] = {}
        self.connection = LoopConnection(
            redis,
            channels=[self.channel],
            on_message=self._handle,
            on_connect=self.wake_all,
            must_listen=lambda: bool(self._expected or self._watched),
        )

    def expect(self, task_id: str, waiter: Waiter) -> None:
        """Resolve this waiter when the task ends, which was accepted with `channel`, or when that may have been missed.

        The notice is None for a long result. `drop` it at last.
        """
        self._expected[task_id] = waiter

    def drop(self, task_id: str) -> None:
        """Drop what `expect` has added, if anything."""
        self._expected.pop(task_id, None)

    async def watch(self, task_id: str) -> Waiter:
        """A waiter that is resolved with None when any task ends, or when that may have been missed.

        `unwatch` it at last. Raises redis.RedisError when Redis is away.
        """
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._watched.setdefault(task_id, []).append(waiter)
        try:
            await self.connection.subscribe(keys.COMPLETIONS)
        except BaseException:
            self.unwatch(task_id, waiter)
            raise
        return waiter

    def unwatch(self, task_id: str, waiter: Waiter) -> None:
        """Drop a waiter of `watch`, resolved or not."""
        waiters = self._watched.get(task_id)
        if waiters and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._watched[task_id]

    async def wait(self, waiter: Waiter, deadline: float) -> None:
        """Return when the waiter is resolved, or at the deadline (time.monotonic())."""
        timer = asyncio.get_running_loop().call_later(deadline - time.monotonic(), wake, waiter, None)
        try:
            await waiter
        finally:
            timer.cancel()

    def _handle(self, channel: str, text: str) -> None:
        try:
            announced = orjson.loads(text)
            if channel == self.channel:
                for task_id, *end in announced:
                    if waiter := self._expected.pop(task_id, None):
                        wake(waiter, CompletionNotice(*end) if end else None)
            else:
                self._handle_all(announced)
        except (ValueError, TypeError) as error:
            log.warning("an announcement of ended tasks cannot be read: %s", error)

    def _handle_all(self, task_ids: list[str]) -> None:
        for task_id in task_ids:
            for waiter in self._watched.pop(task_id, ()):
                wake(waiter, None)
        if not self._watched:
            self.connection.unsubscribe(keys.COMPLETIONS)

    def wake_all(self) -> None:
        """Let all look their tasks up: what was announced before a new subscription was missed."""
        for waiter in (*self._expected.values(), *(each for waiters in self._watched.values() for each in waiters)):
            wake(waiter, None)
        self._expected.clear()
        self._watched.clear()


def wake(waiter: Waiter, notice: CompletionNotice | None) -> None:
    """Resolve a waiter, unless it is resolved."""
    if not waiter.done():
        waiter.set_result(notice)
