"""Watcher that wakes requests when their tasks end: one pub/sub connection for the whole process."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass

from redis import RedisError
from redis.asyncio import Redis

from app.serving.store import keys

log = logging.getLogger(__name__)

#: Seconds without a message after which Redis is pinged, and seconds that its reply may take.
PING_INTERVAL = 10.0

#: Seconds between two attempts to subscribe while Redis is away.
RECONNECT_DELAY = 1.0


@dataclass(frozen=True)
class CompletionNotice:
    """The announced end of a task: its status, and its result as the JSON that is stored."""

    status: str
    result: str


#: A waiting request: resolved with the end of its task, or with None when the task is to be looked up.
Waiter = asyncio.Future[CompletionNotice | None]


class CompletionWatcher:
    """Subscription to the announced ends of tasks, which resolves their waiters. It starts with the first of them."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiters: dict[str, list[Waiter]] = {}
        self._listener: asyncio.Task[None] | None = None

    def subscribe(self, task_id: str) -> Waiter:
        """A waiter that is resolved when the task ends, or when that may have been missed. `unsubscribe` it at last."""
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        self._waiters.setdefault(task_id, []).append(waiter)
        if self._listener is None or self._listener.done():
            self._listener = loop.create_task(self._listen())
        return waiter

    def unsubscribe(self, task_id: str, waiter: Waiter) -> None:
        """Drop the waiter, resolved or not."""
        waiters = self._waiters.get(task_id)
        if waiters and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[task_id]

    async def wait(self, waiter: Waiter, deadline: float) -> CompletionNotice | None:
        """The end of the task; None when it is to be looked up, or at the deadline (time.monotonic())."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(deadline - time.monotonic(), _resolve, waiter, None)
        try:
            return await waiter
        finally:
            timer.cancel()

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(keys.COMPLETIONS)
                    is_pinged = False
                    while True:
                        message = await channel.get_message(timeout=PING_INTERVAL)
                        if message is not None:
                            self._handle(message)
                        elif is_pinged:
                            raise RedisError("no answer to a ping")
                        else:
                            await channel.ping()
                        is_pinged = message is None
            except RedisError as error:
                log.warning("cannot listen for ended tasks, trying again: %s", error)
                await asyncio.sleep(RECONNECT_DELAY)

    def _handle(self, message: dict[str, object]) -> None:
        if message["type"] == "subscribe":
            # What was announced before this subscription was missed.
            for task_id in list(self._waiters):
                self._wake(task_id, None)
            return
        if message["type"] != "message":
            return
        try:
            announced = json.loads(str(message["data"]))
            for task_id, *end in announced:
                self._wake(task_id, CompletionNotice(*end) if end else None)
        except (ValueError, TypeError) as error:
            log.warning("an announcement of ended tasks cannot be read: %s", error)

    def _wake(self, task_id: str, notice: CompletionNotice | None) -> None:
        for waiter in self._waiters.pop(task_id, ()):
            _resolve(waiter, notice)


def _resolve(waiter: Waiter, notice: CompletionNotice | None) -> None:
    if not waiter.done():
        waiter.set_result(notice)
