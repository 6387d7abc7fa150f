"""Sampler of a run: CPU time at its start and its end, and the length of the queue at intervals."""

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
from denzel.loadtest.bench.metrics import CpuUsage, QueueSample
from denzel.services import QUEUE_KEY, UNACKED_KEY, Service

_QUEUE_LENGTHS = "return {redis.call('LLEN', KEYS[1]), redis.call('HLEN', KEYS[2])}"

_Sample = TypeVar("_Sample")


@dataclass(frozen=True, kw_only=True)
class _CpuTime:
    """CPU seconds up to a time: of each service, of this process, and of the whole machine."""

    when: float
    services: Mapping[Service, float]
    generator: float
    machine: float


class Sampler:
    """Samples in a thread of its own, as a backend may be slow; use it in an `async with`.

    The queue is sampled once more at the end. A sample that the backend cannot provide is left out.
    """

    def __init__(self, backend: Backend, *, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.queue: list[QueueSample] = []
        self._backend = backend
        self._interval = interval
        self._clock = clock
        # One thread: a Docker client is not thread-safe.
        self._thread = ThreadPoolExecutor(1)
        self._sampling: asyncio.Task[None] | None = None
        self._began = 0.0
        self._first: _CpuTime | None = None
        self._last: _CpuTime | None = None

    async def __aenter__(self) -> Sampler:
        self._first = await self._in_thread(self._cpu_time)
        self._began = self._clock()
        self._sampling = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
        self._last = await self._in_thread(self._cpu_time)
        await self._sample_queue()
        self._thread.shutdown()

    @property
    def cpu_usage(self) -> CpuUsage | None:
        """The usage from the start to the end; None when the backend could not provide it."""
        first, last = self._first, self._last
        if first is None or last is None or last.when <= first.when:
            return None
        seconds = last.when - first.when
        return CpuUsage(
            services={
                service.value: max(0.0, last.services[service] - first.services[service]) / seconds
                for service in Service
                if service in last.services and service in first.services
            },
            generator=(last.generator - first.generator) / seconds,
            machine=(last.machine - first.machine) / seconds,
            cores=os.cpu_count() or 1,
        )

    async def _sample(self) -> None:
        while True:
            await self._sample_queue()
            await asyncio.sleep(self._interval)

    async def _sample_queue(self) -> None:
        lengths = await self._in_thread(self._queue_lengths)
        if lengths is not None:
            waiting, taken = lengths
            self.queue.append(QueueSample(at=round(self._clock() - self._began, 2), tasks=waiting, taken=taken))

    async def _in_thread(self, sample: Callable[[], _Sample]) -> _Sample:
        return await asyncio.get_running_loop().run_in_executor(self._thread, sample)

    def _queue_lengths(self) -> tuple[int, int] | None:
        """The number of tasks in the queue, and of those that the worker has taken, in one call of the backend."""
        with suppress(DenzelError):
            waiting, taken = self._backend.redis("EVAL", _QUEUE_LENGTHS, "2", QUEUE_KEY, UNACKED_KEY)
            return int(waiting), int(taken)
        return None

    def _cpu_time(self) -> _CpuTime | None:
        with suppress(DenzelError):
            return _CpuTime(
                services=self._backend.processor_time(),
                generator=time.process_time(),
                machine=_machine_time(),
                when=self._clock(),
            )
        return None


def _machine_time() -> float:
    """CPU seconds of this machine since it was started."""
    times = psutil.cpu_times()
    # A system without one of these counts its time in another.
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")))
