"""Load generator: by an open profile (a rate), a closed one (a number of clients), or one by one with retries."""

from __future__ import annotations

import asyncio
import gc
import itertools
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from denzel.loadtest import preflight
from denzel.loadtest.api import Api, parse_json
from denzel.loadtest.client import HttpResponse, NoResponse
from denzel.loadtest.request_log import NO_CONNECTION, Request, RequestLog

#: Connections of an open profile: requests that can wait for their responses at the same time.
_MAX_CONNECTIONS = 256

#: Seconds that a client pauses after a request that was not accepted, so that it does not add to the overload.
_PAUSE = 0.05

#: Requests with retries that are sent at a time, and the seconds that a response to an attempt may take.
_SENDERS, _RESPONSE_TIMEOUT = 8, 15.0

#: New objects until the garbage collector looks for cycles.
_GC_THRESHOLD = 100_000

#: Tasks that are polled at a time, so that polling is no load of its own.
_POLL_LIMIT = 20


@dataclass(frozen=True, kw_only=True)
class LoadProfile:
    """Requests for so many `seconds`: at a `rate` per second, or from `clients`; the other one is None."""

    seconds: float
    rate: float | None = None
    clients: int | None = None

    def due(self, number: int) -> float:
        """The time at which a request is due, in seconds from the start."""
        return number / self.rate if self.rate else 0.0

    def due_within(self, seconds: float) -> int:
        """The number of requests that are due in the first `seconds`."""
        return -int(-seconds * self.rate // 1) if self.rate else 0

    @property
    def connections(self) -> int:
        return self.clients or min(_MAX_CONNECTIONS, max(1, self.due_within(self.seconds)))


class LoadGenerator:
    """Sends requests, each with the header Prefer, and records their outcome in a log; use it in an `async with`.

    What has no response at its end is abandoned.
    """

    def __init__(self, api: Api, log: RequestLog, *, prefer: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.api = api
        self._log = log
        self._prefer = prefer
        self._clock = clock
        self._stopped = False
        self._key = secrets.token_hex(16)
        self._unsent: asyncio.Queue[Request] = asyncio.Queue()
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> LoadGenerator:
        return self

    async def __aexit__(self, *_: object) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for request in list(self._log.outstanding.values()):
            if not request.is_answered:
                self._log.record_no_response(request, "no answer", "the api did not answer")

    async def run(self, profile: LoadProfile) -> None:
        """Send until the time of the profile is over, and leave outstanding what is so then."""
        thresholds = gc.get_threshold()
        # A collection looks at the whole log, which only grows: its pauses would be measured as the project's.
        gc.set_threshold(_GC_THRESHOLD)
        began = self._clock()
        numbers = itertools.count()
        for _ in range(profile.connections):
            self._start(self._open_loop(profile, began, numbers) if profile.rate else self._closed_loop())
        try:
            # An exception in a loop is a bug, and must not be hidden.
            await asyncio.wait(self._loops, timeout=profile.seconds, return_when=asyncio.FIRST_EXCEPTION)
            self.check()
            # The last request of an open loop was due before the end.
            await asyncio.sleep(began + profile.seconds - self._clock())
        finally:
            gc.set_threshold(*thresholds)
            self._stopped = True
            for request in self._log.outstanding.values():
                if request.called_back is not None:
                    request.called_back.set()

    def retry(self, interval: float) -> None:
        """Begin to send what `send` queues, each request until it is accepted, and to poll the tasks of them all.

        `interval` is in seconds: between two attempts of a request, and between two polls of the tasks.
        """
        for _ in range(_SENDERS):
            self._start(self._retrying_loop(interval))
        self._start(self._poll_tasks(interval))

    def send(self, count: int) -> None:
        """Queue so many more requests; raises RequestUnusable when the api has rejected one."""
        self.check()
        for _ in range(count):
            self._unsent.put_nowait(self._log.begin(self._clock()))

    def check(self) -> None:
        """Raise what has ended a loop."""
        for loop in self._loops:
            if loop.done():
                loop.result()

    async def poll(self, request: Request) -> bool:
        """Record what GET /status shows of a task; false when it does not answer."""
        with suppress(NoResponse, TimeoutError):
            async with asyncio.timeout(_RESPONSE_TIMEOUT):
                self._log.record_task(request, await self.api.task(request.task_id), self._clock())
                return True
        return False

    def _start(self, loop: Coroutine[Any, Any, None]) -> None:
        self._loops.append(asyncio.create_task(loop))

    async def _open_loop(self, profile: LoadProfile, began: float, numbers: Iterator[int]) -> None:
        """Take the next request, wait until it is due, and send it, beside other loops.

        The latency of a request counts from when it was due, also when it is sent late because all loops wait for
        responses.
        """
        for due in map(profile.due, numbers):
            if due >= profile.seconds:
                return
            ahead = began + due - self._clock()
            if ahead > 0:
                await asyncio.sleep(ahead)
            if self._stopped:
                return
            await self._send(self._log.begin(began + due))

    async def _closed_loop(self) -> None:
        """Send the next request when the one before has its result, from the response or from the callback."""
        while not self._stopped:
            request = self._log.begin(self._clock())
            await self._send(request)
            if request.accepted is None:
                await asyncio.sleep(_PAUSE)
            elif request.in_flight and not self._log.synchronous and not self._stopped:
                request.called_back = asyncio.Event()
                await request.called_back.wait()
                request.called_back = None

    async def _retrying_loop(self, interval: float) -> None:
        """Retry each request under one idempotency key: a lost response must not lead to a second task."""
        while True:
            request = await self._unsent.get()
            key = f"{self._key}-{request.number}"
            while request.accepted is None:
                response = None
                try:
                    async with asyncio.timeout(_RESPONSE_TIMEOUT):
                        response = await self._send(request, idempotency_key=key)
                except TimeoutError:
                    self._log.record_no_response(request, NO_CONNECTION, "the api did not answer")
                if request.accepted is None:
                    if response is not None and response.status < 500:
                        raise preflight.refused(response.status, parse_json(response.body))
                    await asyncio.sleep(interval)

    async def _send(self, request: Request, *, idempotency_key: str = "") -> HttpResponse | None:
        """Make one attempt, and record its response; None without one."""
        try:
            response = await self.api.predict(request.number, prefer=self._prefer, idempotency_key=idempotency_key)
        except NoResponse:
            reason = "the api could not be reached, or ended the connection"
            self._log.record_no_response(request, NO_CONNECTION, reason)
            return None
        self._log.record_response(request, response)
        return response

    async def _poll_tasks(self, interval: float) -> None:
        polls: Counter[int] = Counter()
        while True:
            await asyncio.sleep(interval)
            unsettled = [task for task in self._log.accepted if not (task.is_settled or task.is_gone)]
            # Those that have surely ended first, then the least often polled.
            unsettled.sort(key=lambda task: (task.ended is not None, not task.own_callbacks, polls[task.number]))
            for task in unsettled[:_POLL_LIMIT]:
                polls[task.number] += 1
                if not await self.poll(task):
                    break
