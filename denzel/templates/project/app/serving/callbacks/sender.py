"""Sender of callbacks: takes those that are due from the outbox, and delivers many at the same time on one loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from redis import RedisError

from app.serving.callback_uri import without_password
from app.serving.store.outbox import AttemptResult, Callback, Outbox

Value = TypeVar("Value")

log = logging.getLogger(__name__)

#: Callbacks in flight at most: in all, and for one endpoint.
IN_FLIGHT = 512
PER_ENDPOINT = 16

#: Bytes of the results in flight. The last one taken may exceed it: a result of any size is sent.
BYTES_IN_FLIGHT = 64 * 1024 * 1024

#: Seconds between two polls of the outbox without a wake-up; and between two while there is much to do, so that one
#: step can settle and take many. It comes earlier once PER_ENDPOINT have ended.
POLL_INTERVAL = 1.0
BATCH_INTERVAL = 0.004

#: Delivered callbacks that one line of the log names.
CALLBACKS_PER_LINE = 16

#: Seconds between two renewals of the leases: a third of the outbox's LEASE.
LEASE_RENEW_INTERVAL = 5.0

#: Seconds that deliveries in flight get when the sender stops. The supervisor waits a second longer.
SHUTDOWN_GRACE = 3.0

#: Seconds that one step of the outbox may take: without Redis, a look-up of its name takes half a minute.
STEP_TIMEOUT = 60.0


class CallbackSender:
    """Delivery of an outbox's callbacks: the loop delivers, and two threads use Redis, one to wait for new callbacks.

    What the thread of a step changes is used by the loop between two steps alone; `_ended` may be filled meanwhile.
    """

    def __init__(self, outbox: Outbox, deliver: Callable[[Callback], Awaitable[AttemptResult]]) -> None:
        self._outbox = outbox
        self._deliver = deliver
        self._in_flight: set[Callback] = set()
        self._attempts: set[asyncio.Task[None]] = set()
        self._ended: deque[tuple[Callback, AttemptResult]] = deque()
        self._unsettled: list[tuple[Callback, AttemptResult]] = []
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="outbox")
        self._is_idle = False
        self._listening: asyncio.Future[None] | None = None
        self._wakeup = asyncio.Event()
        self._stopping = asyncio.Event()
        self._step_began = self._renewed_at = time.monotonic()
        self._prune_cursor = 0

    async def run(self) -> None:
        """Deliver callbacks until `stop`. Those that are due or in flight then have SHUTDOWN_GRACE seconds."""
        is_last = False
        while not is_last:
            # Those of the tasks with which the worker has just ended too.
            is_last = self._stopping.is_set()
            try:
                taken, wait = await self._in_thread(self._step)
            except RedisError as error:
                log.warning("cannot read callbacks, trying again: %s", error)
                # Renew first when Redis is back: the leases of what is in flight may be about to expire.
                self._renewed_at = float("-inf")
                await _wait(self._stopping, POLL_INTERVAL)
                continue
            for callback in taken:
                attempt = asyncio.create_task(self._attempt(callback))
                self._attempts.add(attempt)
                attempt.add_done_callback(self._attempts.discard)
            if not is_last:
                await self._wait_for_work(wait)
        await self._drain()
        if self._listening is not None:
            await self._listening
        self._threads.shutdown(wait=False)

    def stop(self) -> None:
        """Let `run` return; to be called on its loop."""
        self._stopping.set()
        self._wakeup.set()

    def hangs(self) -> bool:
        """True when a step of the outbox does not return."""
        return time.monotonic() - self._step_began > STEP_TIMEOUT

    async def _attempt(self, callback: Callback) -> None:
        self._ended.append((callback, await self._deliver(callback)))
        if self._is_idle or len(self._ended) >= PER_ENDPOINT:
            self._wakeup.set()

    async def _wait_for_work(self, wait: float) -> None:
        self._is_idle = wait > 0 and not self._ended
        if self._is_idle and (self._listening is None or self._listening.done()):
            loop = asyncio.get_running_loop()
            self._listening = loop.run_in_executor(self._threads, self._listen, loop)
        await _wait(self._wakeup, wait if self._is_idle else BATCH_INTERVAL)

    async def _in_thread(self, step: Callable[[], Value]) -> Value:
        self._is_idle = False
        self._wakeup.clear()
        self._step_began = time.monotonic()
        return await asyncio.get_running_loop().run_in_executor(self._threads, step)

    async def _drain(self) -> None:
        """Wait for what is in flight, and release what is not finished in time."""
        ends = time.monotonic() + SHUTDOWN_GRACE
        try:
            await self._in_thread(self._settle)
            while self._in_flight and time.monotonic() < ends:
                await _wait(self._wakeup, min(POLL_INTERVAL, ends - time.monotonic()))
                await self._in_thread(self._settle)
            for attempt in self._attempts:
                attempt.cancel()
            await self._in_thread(self._settle)
            await self._in_thread(lambda: self._outbox.release(self._in_flight))
        except RedisError as error:
            log.warning("cannot release callbacks; they are sent again: %s", error)

    # In a thread

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the loop when a callback is added soon."""
        # Without Redis, the next step fails too.
        with suppress(RedisError):
            if self._outbox.wait(POLL_INTERVAL):
                loop.call_soon_threadsafe(self._wakeup.set)

    def _step(self) -> tuple[list[Callback], float]:
        """Settle what has ended, and take what is due; with the seconds until there may be more."""
        self._settle()
        self._renew()
        taken, next_in = self._outbox.take(
            free=IN_FLIGHT - len(self._in_flight),
            per_endpoint=PER_ENDPOINT,
            free_bytes=BYTES_IN_FLIGHT - sum(len(callback.result) for callback in self._in_flight),
            busy=Counter(callback.endpoint for callback in self._in_flight),
        )
        self._in_flight.update(taken)
        if taken:
            return taken, 0
        return taken, POLL_INTERVAL if next_in is None else min(next_in, POLL_INTERVAL)

    def _settle(self) -> None:
        """Record the results of attempts; while Redis is away, they are kept for the next time."""
        while self._ended:
            self._unsettled.append(self._ended.popleft())
        self._outbox.settle(self._unsettled)
        self._in_flight.difference_update(callback for callback, _ in self._unsettled)
        _log_results(self._unsettled)
        self._unsettled.clear()

    def _renew(self) -> None:
        if time.monotonic() - self._renewed_at >= LEASE_RENEW_INTERVAL:
            self._outbox.renew(self._in_flight)
            self._renewed_at = time.monotonic()
            self._prune_cursor = self._outbox.prune(self._prune_cursor)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _log_results(settled: Sequence[tuple[Callback, AttemptResult]]) -> None:
    delivered = [
        f"{callback.task_id} to {without_password(callback.uri)}" for callback, result in settled if result.delivered
    ]
    for first in range(0, len(delivered), CALLBACKS_PER_LINE):
        log.info("callbacks delivered: %s", ", ".join(delivered[first : first + CALLBACKS_PER_LINE]))
    for callback, result in settled:
        if not result.delivered:
            _log_failure(callback, result)


def _log_failure(callback: Callback, result: AttemptResult) -> None:
    which, where = f"callback of task {callback.task_id}", without_password(callback.uri)
    if result.retry_in is not None:
        log.warning("%s not delivered to %s: %s; next try in %d s", which, where, result.error, result.retry_in)
    else:
        log.error("%s given up: %s: %s", which, where, result.error)
