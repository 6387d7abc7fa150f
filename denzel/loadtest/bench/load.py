"""Load: requests at fixed times, or as many at once as there are clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from denzel.loadtest.bench.request_log import RequestLog
from denzel.loadtest.bench.requests import RequestTemplates
from denzel.loadtest.http.client import Client, NoAnswer

#: Requests at fixed times wait for their answers on so many connections, at most.
MAX_CONNECTIONS = 256

#: Seconds that a client waits after a request that was not accepted: it is to measure refusals, not to add to them.
_PAUSE = 0.05


@dataclass(frozen=True, kw_only=True)
class LoadProfile:
    """So many requests per second, or so many clients; the other one is None."""

    seconds: float
    rate: float | None = None
    clients: int | None = None

    def moment(self, number: int) -> float:
        """When a request is due, in seconds from the beginning."""
        return number / self.rate if self.rate else 0.0

    def due(self, seconds: float) -> int:
        """How many requests are due after so many seconds."""
        return -int(-seconds * self.rate // 1) if self.rate else 0

    @property
    def connections(self) -> int:
        return self.clients or min(MAX_CONNECTIONS, max(1, self.due(self.seconds)))


class Generator:
    """Sends what is `prepared` by a plan, and notes in the record what becomes of it."""

    def __init__(
        self,
        client: Client,
        prepared: RequestTemplates,
        record: RequestLog,
        plan: LoadProfile,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._prepared = prepared
        self._record = record
        self._plan = plan
        self._clock = clock
        self._began = 0.0
        self._next = 0
        self._stopped = False
        self._ends: dict[int, asyncio.Future[None]] = {}
        self._running: Sequence[asyncio.Task[None]] = ()

    async def run(self) -> None:
        """Send, and return when the time is over; what is under way then stays so."""
        self._began = self._clock()
        client = self._at_fixed_times if self._plan.rate else self._one_after_another
        self._running = [asyncio.create_task(client()) for _ in range(self._plan.connections)]
        try:
            # What fails in a client is a fault of this program, and must be seen.
            done, _ = await asyncio.wait(self._running, timeout=self._plan.seconds, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            # The last request was due before the end.
            await asyncio.sleep(self._began + self._plan.seconds - self._clock())
        finally:
            self.stop()

    def stop(self) -> None:
        """Begin no request more."""
        self._stopped = True
        for end in self._ends.values():
            if not end.done():
                end.set_result(None)

    async def close(self) -> None:
        """Wait for no answer more."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def ended(self, number: int) -> None:
        """The callback of a request has come."""
        end = self._ends.get(number)
        if end is not None and not end.done():
            end.set_result(None)

    async def _at_fixed_times(self) -> None:
        """Take the next request, wait until it is due, send it; others do the same meanwhile.

        One that is sent late, because all wait for their answers, counts from when it was due.
        """
        while True:
            due = self._plan.moment(self._next)
            self._next += 1
            if due >= self._plan.seconds:
                return
            ahead = self._began + due - self._clock()
            if ahead > 0:
                await asyncio.sleep(ahead)
            if self._stopped:
                return
            await self._send(self._began + due)

    async def _one_after_another(self) -> None:
        """Send the next request when the one before has come to its end: its result, or its callback."""
        while not self._stopped:
            number, accepted = await self._send(self._clock())
            if not accepted:
                await asyncio.sleep(_PAUSE)
            elif number in self._record.under_way and not self._record.synchronous and not self._stopped:
                self._ends[number] = asyncio.get_running_loop().create_future()
                await self._ends[number]
                del self._ends[number]

    async def _send(self, intended: float) -> tuple[int, bool]:
        number = self._record.begin(intended)
        try:
            answer = await self._client.ask(self._prepared.predict(number))
        except NoAnswer:
            self._record.no_answer(number, "no connection", "the api could not be reached, or ended the connection")
            return number, False
        except asyncio.CancelledError:
            self._record.no_answer(number, "no answer", "the api did not answer")
            raise
        return number, self._record.answer(number, answer)
