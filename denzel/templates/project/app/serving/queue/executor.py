"""Executor for blocking work that the event loop awaits, in batches: cheap while there is much of it.

One thread takes whatever is queued, one function after the other, and wakes the loop once for many results. A slow
function gets the others another thread: at once when that is noticed at its end, else at the loop's next check.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

#: Seconds without progress after which the loop starts another thread for queued work.
STALL_INTERVAL = 0.002

#: Seconds after which a function counts as slow.
SLOW = 0.001


class BatchingExecutor:
    """Up to `max_threads` threads, started when they are needed, for one event loop."""

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        self._work: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._results: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        # Guards the number of threads, and of those awake; each entry of `_wakeups` wakes one.
        self._lock = threading.Lock()
        self._started = 0
        self._awake = 0
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._progress = 0
        self._is_checked = False
        self._is_waking = False
        self._is_notified = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def backlog(self) -> int:
        """The number of functions that are queued."""
        return len(self._work)

    def run(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Run the function in a thread; the future gets what it returns or raises."""
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._work.append((function, future))
        if not self._is_waking:
            # After this turn of the loop, which may queue more: a thread that is awake competes for the interpreter.
            self._is_waking = True
            self._loop.call_soon(self._wake)
        return future

    def _wake(self) -> None:
        self._is_waking = False
        with self._lock:
            if self._awake == 0:
                self._wake_one()
        # Only now: an earlier check would find all threads asleep, and be the last.
        if not self._is_checked:
            self._is_checked = True
            assert self._loop is not None
            self._loop.call_later(STALL_INTERVAL, self._check_stalled, self._progress)

    def _wake_one(self) -> None:
        if self._awake == self._max_threads:
            return
        self._awake += 1
        if self._awake <= self._started:
            self._wakeups.put(None)
            return
        self._started += 1
        threading.Thread(target=self._run_loop, name=f"{self._name}-{self._started}", daemon=True).start()

    def _check_stalled(self, progress: int) -> None:
        """Wake another thread if work is queued and nothing was done since `progress`. Repeated while any is awake."""
        with self._lock:
            if self._awake == 0:
                self._is_checked = False
                return
            if self._progress == progress and self._work:
                self._wake_one()
        assert self._loop is not None
        self._loop.call_later(STALL_INTERVAL, self._check_stalled, self._progress)

    def _run_loop(self) -> None:
        while True:
            self._run_until_idle()
            self._wakeups.get()

    def _run_until_idle(self) -> None:
        while True:
            while self._run_one():
                pass
            with self._lock:
                if not self._work:
                    self._awake -= 1
                    return

    def _run_one(self) -> bool:
        try:
            function, future = self._work.popleft()
        except IndexError:
            return False
        began = time.perf_counter()
        try:
            value = function()
        except Exception as error:  # noqa: BLE001 (raised where it is awaited)
            self._resolve(error, future)
        except BaseException as error:  # noqa: BLE001 (it must not end the thread)
            self._resolve(RuntimeError(f"{type(error).__name__}: {error}"), future)
        else:
            self._resolve(value, future)
        # The traceback of an error holds this frame: a circle, with all that the function worked on.
        del function, future
        self._progress += 1
        if self._work and time.perf_counter() - began > SLOW:
            with self._lock:
                self._wake_one()
        return True

    def _resolve(self, result: Any, future: asyncio.Future[Any]) -> None:
        self._results.append((result, future))
        if not self._is_notified:
            self._is_notified = True
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._set_results)

    def _set_results(self) -> None:
        # First: a result that comes from now on notifies the loop again.
        self._is_notified = False
        while self._results:
            result, future = self._results.popleft()
            if future.done():  # it was cancelled
                continue
            if isinstance(result, StopIteration):
                # asyncio's futures refuse it.
                future.set_exception(RuntimeError(f"StopIteration: {result}"))
            elif isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
