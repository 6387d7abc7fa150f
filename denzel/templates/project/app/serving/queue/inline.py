"""Executor for short functions: on the event loop while they are quick, and in threads while they are not.

The way to a thread and back costs more than a short function. One that is slow for once holds up the event loop; the
next ones run in threads for a while, the longer the slower it was.
"""

from __future__ import annotations

import asyncio
import math
import resource
import time
from collections.abc import Callable
from typing import Any

from app.serving.queue.executor import BatchingExecutor

#: Seconds that functions may take on the loop: by a moving average over so many of them, and one alone.
QUICK = 0.0002
AVERAGED = 16
SLOW = 0.002

#: For how long threads are used after a function was slow on the loop, in multiples of the time that it took: a
#: hundredth of the time is lost to such functions at most.
PAUSE = 100

#: Units of work of one function, such as bytes of input, above which it is not expected to be as quick as others.
MAX_SIZE = 16 * 1024

# On Linux alone.
_THREAD = getattr(resource, "RUSAGE_THREAD", None)


class InlineExecutor:
    """Runs functions on the event loop or in the threads of an executor."""

    def __init__(self, threads: BatchingExecutor) -> None:
        self._threads = threads
        # As if the last one had been slow: nothing is known yet.
        self._average = SLOW
        self._paused_until = 0.0

    @property
    def backlog(self) -> int:
        """The number of functions that wait for a thread."""
        return self._threads.backlog

    async def run(self, function: Callable[[], Any], size: int) -> Any:
        """Return or raise as the function does. It finds no running event loop, wherever it runs."""
        if self._average > QUICK or size > MAX_SIZE or time.monotonic() < self._paused_until:
            return await self._threads.run(lambda: self._run_in_thread(function))
        watch = _Stopwatch()
        try:
            return _without_loop(function)
        finally:
            took = watch.seconds()
            self._count(took)
            if took > SLOW:
                self._paused_until = time.monotonic() + PAUSE * took

    def _run_in_thread(self, function: Callable[[], Any]) -> Any:
        watch = _Stopwatch()
        try:
            return function()
        finally:
            self._count(watch.seconds())

    def _count(self, took: float) -> None:
        self._average = SLOW if took > SLOW else self._average + (took - self._average) / AVERAGED


class _Stopwatch:
    """The time of this thread since it was made, without that for which another process had its core."""

    __slots__ = ("_began", "_computed", "_waits")

    def __init__(self) -> None:
        self._waits = _waits()
        self._computed = time.thread_time()
        self._began = time.monotonic()

    def seconds(self) -> float:
        took = time.monotonic() - self._began
        if took > QUICK and self._waits == _waits():
            return time.thread_time() - self._computed
        return took


def _waits() -> float:
    """The number of times that this thread has waited for anything but a core.

    NaN where that is unknown: it does not equal itself.
    """
    return math.nan if _THREAD is None else resource.getrusage(_THREAD).ru_nvcsw


def _without_loop(function: Callable[[], Any]) -> Any:
    """Run a function as in a thread of its own: `asyncio.run` works in it, and nothing that it raises ends the loop."""
    # In asyncio's `__all__`, for whoever runs event loops.
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return function()
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    finally:
        asyncio._set_running_loop(loop)
