"""Blocking work in threads, for whoever awaits it on the event loop; cheap when there is much of it.

One thread takes whatever is there, one piece after the other, and the loop is woken once for many answers. A piece that
takes its time gets the others another thread: at once when one notices at its end, else when the loop has looked.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

#: Seconds after which the loop gives waiting work another thread; and seconds from which a piece of work is a slow one.
STALL_INTERVAL = 0.002
SLOW = 0.001

#: How many results are finished together at most, so that the first of them does not wait long.
MAX_BATCH = 64

Finish = Callable[[list[Any]], list[Any]]


class BatchingExecutor:
    """Up to `most` threads, which are started when they are needed. To be used from one event loop."""

    def __init__(self, most: int, name: str, finish: Finish | None = None) -> None:
        """With `finish`, what the functions of `run` return are its arguments, many at a time while there are many.

        It returns as many outcomes; the ones that are exceptions are raised where they are awaited.
        """
        self._most = most
        self._name = name
        self._finish = finish
        self._work: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._prepared: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._answers: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._finishing = threading.Lock()
        # Guards how many threads there are, and how many of them are awake; each entry of `_alarms` wakes one.
        self._lock = threading.Lock()
        self._started = 0
        self._awake = 0
        self._alarms: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._progress = 0
        self._watched = False
        self._is_waking = False
        self._told = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> int:
        """How many pieces of work lie there: to be run, or to be finished after that."""
        return len(self._work) + len(self._prepared)

    def run(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """What the function returns, or raises, when a thread has run it."""
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._work.append((function, future))
        if not self._is_waking:
            # After this turn of the loop, which may bring more: a thread that is awake wants the interpreter, too.
            self._is_waking = True
            self._loop.call_soon(self._wake)
        return future

    def _wake(self) -> None:
        self._is_waking = False
        with self._lock:
            if self._awake == 0:
                self._wake_one()
        # Only now: a look before this would find all asleep, and be the last.
        if not self._watched:
            self._watched = True
            assert self._loop is not None
            self._loop.call_later(STALL_INTERVAL, self._look, self._progress)

    def _wake_one(self) -> None:
        if self._awake == self._most:
            return
        self._awake += 1
        if self._awake <= self._started:
            self._alarms.put(None)
            return
        self._started += 1
        threading.Thread(target=self._live, name=f"{self._name}-{self._started}", daemon=True).start()

    def _look(self, progress: int) -> None:
        """On the loop, while threads are awake: is anything left lying?"""
        with self._lock:
            if self._awake == 0:
                self._watched = False
                return
            if self._progress == progress and self._is_left():
                self._wake_one()
        assert self._loop is not None
        self._loop.call_later(STALL_INTERVAL, self._look, self._progress)

    def _is_left(self) -> bool:
        """Whether there is anything that one more thread could do now."""
        return (bool(self._work) and self._may_run()) or (bool(self._prepared) and not self._finishing.locked())

    def _may_run(self) -> bool:
        return len(self._prepared) < MAX_BATCH

    def _live(self) -> None:
        while True:
            self._work_on()
            self._alarms.get()

    def _work_on(self) -> None:
        while True:
            if self._may_run() and self._run_one():
                continue
            if self._finish_some():
                continue
            with self._lock:
                # Whoever finishes looks here once more after it.
                if not self._is_left():
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
            self._answer(error, future)
        except BaseException as error:  # noqa: BLE001 (nor must the thread end of it)
            self._answer(RuntimeError(f"{type(error).__name__}: {error}"), future)
        else:
            if self._finish is None:
                self._answer(value, future)
            else:
                self._prepared.append((value, future))
        self._progress += 1
        if self._work and time.perf_counter() - began > SLOW:
            with self._lock:
                self._wake_one()
        return True

    def _finish_some(self) -> bool:
        """Finish what is prepared, unless another thread is at it: that one will take the rest, too."""
        if self._finish is None or not self._prepared or not self._finishing.acquire(blocking=False):
            return False
        try:
            batch = [self._prepared.popleft() for _ in range(min(len(self._prepared), MAX_BATCH))]
            try:
                outcomes = self._finish([value for value, _ in batch])
                answers = list(zip(outcomes, batch, strict=True))
            except Exception as error:  # noqa: BLE001 (raised where it is awaited)
                answers = [(error, one) for one in batch]
            for outcome, (_, future) in answers:
                self._answer(outcome, future)
            self._progress += 1
        finally:
            self._finishing.release()
        return True

    def _answer(self, outcome: Any, future: asyncio.Future[Any]) -> None:
        self._answers.append((outcome, future))
        if not self._told:
            self._told = True
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        # First: an answer that comes from now on tells the loop again.
        self._told = False
        while self._answers:
            outcome, future = self._answers.popleft()
            if future.done():  # whoever asked has gone
                continue
            if isinstance(outcome, StopIteration):
                # No future takes it.
                future.set_exception(RuntimeError(f"StopIteration: {outcome}"))
            elif isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
