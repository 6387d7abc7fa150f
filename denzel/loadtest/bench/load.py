"""Load generator with an open load profile (a rate of requests) or a closed one (a number of clients)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from denzel.loadtest.api import Api
from denzel.loadtest.client import NoResponse
from denzel.loadtest.request_log import NO_CONNECTION, Request, RequestLog

#: Connections of an open profile: requests that can wait for their responses at the same time.
_MAX_CONNECTIONS = 256

#: Seconds that a client pauses after a request that was not accepted, so that it does not add to the overload.
_PAUSE = 0.05


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
    """Sends requests by a load profile, each with the header Prefer, and records their outcome in a log."""

    def __init__(
        self,
        api: Api,
        log: RequestLog,
        profile: LoadProfile,
        *,
        prefer: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._log = log
        self._profile = profile
        self._prefer = prefer
        self._clock = clock
        self._began = 0.0
        self._next = 0
        self._stopped = False
        self._callbacks: dict[int, asyncio.Event] = {}
        self._loops: Sequence[asyncio.Task[None]] = ()

    async def run(self) -> None:
        """Send until the time of the profile is over, and leave outstanding what is so then."""
        self._began = self._clock()
        loop = self._open_loop if self._profile.rate else self._closed_loop
        self._loops = [asyncio.create_task(loop()) for _ in range(self._profile.connections)]
        try:
            # An exception in a loop is a bug, and must not be hidden.
            done, _ = await asyncio.wait(
                self._loops, timeout=self._profile.seconds, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
            # The last request of an open loop was due before the end.
            await asyncio.sleep(self._began + self._profile.seconds - self._clock())
        finally:
            self._stop()

    async def close(self) -> None:
        """Abandon the requests that have no response yet."""
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    def on_callback(self, number: int) -> None:
        """Let the client of a request go on, whose callback has arrived."""
        if callback := self._callbacks.get(number):
            callback.set()

    def _stop(self) -> None:
        """Start no more requests."""
        self._stopped = True
        for callback in self._callbacks.values():
            callback.set()

    async def _open_loop(self) -> None:
        """Take the next request, wait until it is due, and send it, beside other loops.

        The latency of a request counts from when it was due, also when it is sent late because all loops wait for
        responses.
        """
        while True:
            due = self._profile.due(self._next)
            self._next += 1
            if due >= self._profile.seconds:
                return
            ahead = self._began + due - self._clock()
            if ahead > 0:
                await asyncio.sleep(ahead)
            if self._stopped:
                return
            await self._send(self._began + due)

    async def _closed_loop(self) -> None:
        """Send the next request when the one before has its result, from the response or from the callback."""
        while not self._stopped:
            request = await self._send(self._clock())
            if request.accepted is None:
                await asyncio.sleep(_PAUSE)
            elif request.in_flight and not self._log.synchronous and not self._stopped:
                self._callbacks[request.number] = asyncio.Event()
                await self._callbacks[request.number].wait()
                del self._callbacks[request.number]

    async def _send(self, scheduled: float) -> Request:
        request = self._log.begin(scheduled)
        try:
            self._log.record_response(request, await self._api.predict(request.number, prefer=self._prefer))
        except NoResponse:
            reason = "the api could not be reached, or ended the connection"
            self._log.record_no_response(request, NO_CONNECTION, reason)
        except asyncio.CancelledError:
            self._log.record_no_response(request, "no answer", "the api did not answer")
            raise
        return request
