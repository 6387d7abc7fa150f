"""Executor for short functions: on the event loop while they are quick, and in threads while they are not.

The way to a thread and back costs more than a short function. One that is slow for once holds up the event loop; the
next ones run in threads until they are quick again, and after a very slow one for a while at least.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from app.serving.queue.executor import BatchingExecutor

#: Seconds that a quick function takes at most; and how many that were quick in threads, in a row, bring the next one to
#: the loop.
QUICK = 0.0002
QUICK_CALLS = 16

#: Units of work of one function, such as bytes of input, above which it is not expected to be as quick as others.
MAX_SIZE = 16 * 1024

#: Seconds for which the loop may be held up, as also the system's scheduler holds it up; and for how long threads are
#: used after a longer time, in multiples of that. So slow functions hold up the loop for a hundredth of the time.
TOLERABLE = 0.01
PAUSE = 100


class InlineExecutor:
    """Runs functions on the event loop or in the threads of an executor."""

    def __init__(self, threads: BatchingExecutor) -> None:
        self._threads = threads
        self._quick_calls = 0
        self._paused_until = 0.0

    @property
    def backlog(self) -> int:
        """The number of functions that wait for a thread."""
        return self._threads.backlog

    async def run(self, function: Callable[[], Any], size: int) -> Any:
        """Return or raise as the function does. It finds no running event loop, wherever it runs."""
        began = time.monotonic()
        if self._quick_calls < QUICK_CALLS or size > MAX_SIZE or began < self._paused_until:
            return await self._threads.run(lambda: self._measured(function))
        try:
            return _without_loop(function)
        finally:
            took = time.monotonic() - began
            if took > QUICK:
                self._quick_calls = 0
                if took > TOLERABLE:
                    self._paused_until = began + (1 + PAUSE) * took

    def _measured(self, function: Callable[[], Any]) -> Any:
        """Run a function in a thread."""
        began = time.monotonic()
        try:
            return function()
        finally:
            self._quick_calls = self._quick_calls + 1 if time.monotonic() - began <= QUICK else 0


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
