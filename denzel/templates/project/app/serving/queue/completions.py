"""Waiting for tasks to end: one connection listens for the whole process, however many requests wait."""

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

#: Seconds of silence after which Redis is asked whether it is there, and seconds that it may take to answer.
PING_INTERVAL = 10.0

#: Seconds between two tries to listen again when Redis was away.
RECONNECT_DELAY = 1.0


@dataclass(frozen=True)
class EndedTask:
    """How a task ended: the announcement said it, with the result as the JSON that is stored."""

    status: str
    result: str


#: What a waiting request is woken with: how its task ended; None says to look it up.
Waiter = asyncio.Future[EndedTask | None]


class CompletionWatcher:
    """Wakes whoever waits for a task when its end is announced. Listening starts with the first wait."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: dict[str, list[Waiter]] = {}
        self._listener: asyncio.Task[None] | None = None

    def expect(self, task_id: str) -> Waiter:
        """Is set when `task_id` ends, or when that may have been missed; `forget` it when it is not waited for."""
        loop = asyncio.get_running_loop()
        end: Waiter = loop.create_future()
        self._waiting.setdefault(task_id, []).append(end)
        if self._listener is None or self._listener.done():
            self._listener = loop.create_task(self._listen())
        return end

    def forget(self, task_id: str, end: Waiter) -> None:
        """Expect it no longer."""
        waiting = self._waiting.get(task_id)
        if waiting and end in waiting:
            waiting.remove(end)
            if not waiting:
                del self._waiting[task_id]

    async def until(self, end: Waiter, deadline: float) -> EndedTask | None:
        """How the task ended; None when it is to be looked up, or did not until then (time.monotonic())."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(deadline - time.monotonic(), _set, end, None)
        try:
            return await end
        finally:
            timer.cancel()

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(keys.COMPLETIONS)
                    asked = False
                    while True:
                        message = await channel.get_message(timeout=PING_INTERVAL)
                        if message is not None:
                            self._receive(message)
                        elif asked:
                            raise RedisError("no answer to a ping")
                        else:
                            await channel.ping()
                        asked = message is None
            except RedisError as error:
                log.warning("cannot listen for ended tasks, trying again: %s", error)
                await asyncio.sleep(RECONNECT_DELAY)

    def _receive(self, message: dict[str, object]) -> None:
        if message["type"] == "subscribe":
            # What ended before was not heard.
            for task_id in list(self._waiting):
                self._wake(task_id, None)
            return
        if message["type"] != "message":
            return
        try:
            ends = json.loads(str(message["data"]))
            for task_id, *how in ends:
                self._wake(task_id, EndedTask(*how) if how else None)
        except (ValueError, TypeError) as error:
            log.warning("an announcement of ended tasks cannot be read: %s", error)

    def _wake(self, task_id: str, ended: EndedTask | None) -> None:
        for end in self._waiting.pop(task_id, ()):
            _set(end, ended)


def _set(end: Waiter, ended: EndedTask | None) -> None:
    if not end.done():
        end.set_result(ended)
