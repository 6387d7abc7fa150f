"""Drain of a bench: waits for outstanding requests, then cancels the tasks that remain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from denzel.loadtest.client import NoResponse
from denzel.loadtest.load import LoadGenerator
from denzel.loadtest.request_log import Request, RequestLog

#: Concurrent requests about tasks.
_MAX_CONCURRENCY = 16


@dataclass(frozen=True, kw_only=True)
class BenchTimings:
    """Timeouts and intervals of a bench, in seconds."""

    first_task_timeout: float = 60
    #: For the tasks that have not ended when the sending is over; at least as long as the sending took.
    drain_timeout: float = 10
    #: After a cancel, the time without a callback that ends the wait for callbacks.
    idle_timeout: float = 5
    poll_interval: float = 0.05
    #: Between two samples of the queue: on Docker, each is a program that runs in a container.
    sample_interval: float = 0.5


@dataclass(frozen=True)
class Drain:
    """Follows outstanding requests to their end; `doing` is called with each step that it begins."""

    load: LoadGenerator
    log: RequestLog
    timings: BenchTimings
    doing: Callable[[str], None]
    clock: Callable[[], float]

    async def wait(self, timeout: float) -> bool:
        """Wait until nothing is outstanding; false after `timeout` seconds."""
        began = self.clock()
        while self.log.outstanding:
            if self.clock() - began > timeout:
                return False
            without_callback = [request for request in self._in_flight() if not request.awaits_callback]
            for request in without_callback[:_MAX_CONCURRENCY]:
                await self.load.poll(request)
            await asyncio.sleep(self.timings.poll_interval)
        return True

    async def cancel_remaining(self) -> None:
        """Cancel the tasks that have not ended, and wait for callbacks that are still to arrive."""
        attempted: set[int] = set()
        outstanding, changed = len(self.log.outstanding), self.clock()
        while True:
            # Also those whose response arrives only now.
            remaining = [request for request in self._in_flight() if request.number not in attempted]
            if remaining:
                if not attempted:
                    count = "1 task that has" if len(remaining) == 1 else f"{len(remaining)} tasks that have"
                    self.doing(f"Cancelling {count} not ended")
                attempted.update(request.number for request in remaining)
                await asyncio.gather(*(self._cancel(remaining) for _ in range(_MAX_CONCURRENCY)))
                changed = self.clock()
            if len(self.log.outstanding) != outstanding:
                outstanding, changed = len(self.log.outstanding), self.clock()
            if not outstanding or self.clock() - changed >= self.timings.idle_timeout:
                return
            await asyncio.sleep(self.timings.poll_interval)

    def _in_flight(self) -> list[Request]:
        return [request for request in self.log.outstanding.values() if request.in_flight]

    async def _cancel(self, remaining: list[Request]) -> None:
        while remaining:
            # From the back of the queue: the worker takes tasks from the front.
            request = remaining.pop()
            if not request.in_flight:
                continue
            # Also without an answer, it may be cancelled: its callback will show.
            request.is_cancelled = True
            with suppress(NoResponse):
                status = await self.load.api.cancel(request.task_id)
                ended_before = status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND)
                if ended_before or status == HTTPStatus.OK:
                    self.log.record_cancelled(request, ended_before=ended_before)
