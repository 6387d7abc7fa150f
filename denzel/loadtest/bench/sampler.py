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
from denzel.loadtest.bench.metrics import Processors, Waiting
from denzel.services import QUEUE_KEY, UNACKED_KEY, Service

#: Seconds between two looks at the queue: on Docker, each is a program that runs in a container.
SAMPLE_INTERVAL = 0.5

_COUNT = "return {redis.call('LLEN', KEYS[1]), redis.call('HLEN', KEYS[2])}"

_Seen = TypeVar("_Seen")


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """Seconds of work until this moment: of each service, of this process, and of all processors of the machine."""

    when: float
    services: Mapping[Service, float]
    generator: float
    machine: float


class Sampler:
    """Looks from a thread of its own, as the backends may take a while to answer; use it in an `async with`.

    The queue is looked at once more at the end, however early that comes.

    What they cannot tell at a moment is left out.
    """

    def __init__(
        self, backend: Backend, *, every: float = SAMPLE_INTERVAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.queue: list[Waiting] = []
        self._backend = backend
        self._every = every
        self._clock = clock
        # One thread: a client of Docker is not for two.
        self._thread = ThreadPoolExecutor(1)
        self._looking: asyncio.Task[None] | None = None
        self._began = 0.0
        self._first: _Reading | None = None
        self._last: _Reading | None = None

    async def __aenter__(self) -> Sampler:
        self._first = await self._off(self._read)
        self._began = self._clock()
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._last = await self._off(self._read)
        await self._look_once()
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
        while True:
            await self._look_once()
            await asyncio.sleep(self._every)

    async def _look_once(self) -> None:
        counts = await self._off(self._counts)
        if counts is not None:
            waiting, taken = counts
            self.queue.append(Waiting(at=round(self._clock() - self._began, 2), tasks=waiting, taken=taken))

    async def _off(self, look: Callable[[], _Seen]) -> _Seen:
        return await asyncio.get_running_loop().run_in_executor(self._thread, look)

    def _counts(self) -> tuple[int, int] | None:
        """The tasks that wait, and those that the worker has taken; in one go, which costs little on no backend."""
        with suppress(DenzelError):
            waiting, taken = self._backend.redis("EVAL", _COUNT, "2", QUEUE_KEY, UNACKED_KEY)
            return int(waiting), int(taken)
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
