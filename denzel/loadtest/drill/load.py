"""Load of a drill: requests that are retried until they are accepted, and polling of their tasks."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable

from denzel.loadtest import preflight
from denzel.loadtest.api import Api, parse_json
from denzel.loadtest.client import NoResponse
from denzel.loadtest.request_log import NO_CONNECTION, Request, RequestLog

#: Requests that are sent at a time.
_SENDERS = 8

#: Seconds that a response may take.
_RESPONSE_TIMEOUT = 15.0

#: Tasks that are polled at a time, so that polling is no load of its own.
_POLL_LIMIT = 20


class Load:
    """Sends requests, and records them in a log with what becomes of their tasks; use it in an `async with`.

    `interval` is in seconds: between two attempts of a request, and between two polls of the tasks.
    """

    def __init__(
        self, api: Api, log: RequestLog, *, interval: float = 0.25, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._log = log
        self._interval = interval
        self._clock = clock
        self._key = secrets.token_hex(16)
        self._unsent: asyncio.Queue[Request] = asyncio.Queue()
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        loops = [*(self._send_requests() for _ in range(_SENDERS)), self._poll_tasks()]
        self._loops = [asyncio.create_task(loop) for loop in loops]
        return self

    async def __aexit__(self, *_: object) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    def send(self, count: int) -> None:
        """Send so many more requests in the background; raises RequestUnusable when the api has rejected one."""
        for loop in self._loops:
            if loop.done():
                loop.result()
        for _ in range(count):
            self._unsent.put_nowait(self._log.begin(self._clock()))

    async def _send_requests(self) -> None:
        while True:
            request = await self._unsent.get()
            while not await self._send(request):
                await asyncio.sleep(self._interval)

    async def _send(self, request: Request) -> bool:
        """Make one attempt; true when the request was accepted. Raises RequestUnusable when no retry can help.

        All have one idempotency key: a lost response must not lead to a second task.
        """
        try:
            async with asyncio.timeout(_RESPONSE_TIMEOUT):
                response = await self._api.predict(
                    request.number, prefer="respond-async", idempotency_key=f"{self._key}-{request.number}"
                )
        except (NoResponse, TimeoutError):
            self._log.record_no_response(request, NO_CONNECTION, "the api could not be reached, or did not answer")
            return False
        if self._log.record_response(request, response):
            return True
        if response.status < 500:
            raise preflight.refused(response.status, parse_json(response.body))
        return False

    async def _poll_tasks(self) -> None:
        polls: Counter[int] = Counter()
        while True:
            await asyncio.sleep(self._interval)
            unsettled = [task for task in self._log.accepted if not (task.is_settled or task.is_gone)]
            # Those that have surely ended first, then the least often polled.
            unsettled.sort(key=lambda task: (task.ended is not None, not task.own_callbacks, polls[task.number]))
            for task in unsettled[:_POLL_LIMIT]:
                polls[task.number] += 1
                try:
                    async with asyncio.timeout(_RESPONSE_TIMEOUT):
                        self._log.record_task(task, await self._api.task(task.task_id), self._clock())
                except (NoResponse, TimeoutError):
                    break
