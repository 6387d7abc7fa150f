"""What is looked at during a run: the processors, at its beginning and its end, and the queue, again and again."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import psutil

from denzel.backends.base import Backend
from denzel.errors import DenzelError
from denzel.measures import Processors, Waiting
from denzel.services import QUEUE_KEY, Service

#: Seconds between two looks at the queue: on Docker, each is a program that runs in a container.
LOOK_EVERY = 0.5

_Seen = TypeVar("_Seen")


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """Seconds of work until this moment: of each service, of this process, and of all processors of the machine."""

    when: float
    services: Mapping[Service, float]
    generator: float
    machine: float


class Gauges:
    """Looks from a thread of its own, as the backends may take a while to answer; use it in an `async with`.

    What they can not tell at a moment is left out.
    """

    def __init__(
        self, backend: Backend, *, every: float = LOOK_EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.queue: list[Waiting] = []
        self._backend = backend
        self._every = every
        self._clock = clock
        # One thread: a client of Docker is not for two.
        self._thread = ThreadPoolExecutor(1)
        self._looking: asyncio.Task[None] | None = None
        self._first: _Reading | None = None
        self._last: _Reading | None = None

    async def __aenter__(self) -> Gauges:
        self._first = await self._off(self._read)
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._last = await self._off(self._read)
        self._thread.shutdown()

    @property
    def processors(self) -> Processors | None:
        """How busy everybody was, from the beginning to the end; None when a backend could not tell."""
        first, last = self._first, self._last
        if first is None or last is None or last.when <= first.when:
            return None
        seconds = last.when - first.when
        return Processors(
            services={
                service.value: max(0.0, last.services[service] - first.services[service]) / seconds
                for service in Service
                if service in last.services and service in first.services
            },
            generator=(last.generator - first.generator) / seconds,
            machine=(last.machine - first.machine) / seconds,
            cores=os.cpu_count() or 1,
        )

    async def _look(self) -> None:
        began = self._clock()
        while True:
            waiting = await self._off(self._waiting)
            if waiting is not None:
                self.queue.append(Waiting(at=round(self._clock() - began, 2), tasks=waiting))
            await asyncio.sleep(self._every)

    async def _off(self, look: Callable[[], _Seen]) -> _Seen:
        return await asyncio.get_running_loop().run_in_executor(self._thread, look)

    def _waiting(self) -> int | None:
        with suppress(DenzelError):
            return int(self._backend.redis("LLEN", QUEUE_KEY))
        return None

    def _read(self) -> _Reading | None:
        with suppress(DenzelError):
            return _Reading(
                services=self._backend.processor_time(),
                generator=time.process_time(),
                machine=_busy(),
                when=self._clock(),
            )
        return None


def _busy() -> float:
    """Seconds for which the processors of this machine have worked since it was started."""
    times = psutil.cpu_times()
    # What a system does not tell apart from the rest is not there.
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")))
