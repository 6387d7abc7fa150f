"""Batch window: how long to let tasks accumulate before taking them."""

from __future__ import annotations

import time
from typing import Any

from app.serving.worker.batching.in_flight import InFlight
from app.serving.worker.batching.poller import POLL_TIMEOUT
from app.serving.worker.batching.scoreboard import Clock, Scoreboard

#: Seconds between two checks whether a process that polls the queue is held up.
WINDOW_CHECK_INTERVAL = 0.005


class BatchWindow:
    """Lets tasks accumulate for `wait` seconds at most, while a process is at work that could soon take more at once.

    While a process polls the queue, tasks are left to it.
    """

    def __init__(self, scoreboard: Scoreboard, wait: float, clock: Clock = time.monotonic) -> None:
        self._scoreboard = scoreboard
        self._wait = wait
        self._clock = clock
        self._timer: Any = None
        self._until: float | None = None
        self._next_check = 0.0

    def start(self, timer: Any) -> None:
        """Use the timer of an event loop, which looks at the queue again after each call."""
        self._timer = timer

    def close(self, *, is_full: bool = False) -> None:
        """Let what waits be taken. The next task opens the window again, unless the next batch `is_full` already."""
        self._until = self._clock() if is_full else None

    def is_open(self, batches: InFlight) -> bool:
        """True when nothing is to be taken while these batches are in flight."""
        accumulates = self._until is not None and len(batches) > 0 and self._clock() < self._until
        return accumulates or self._is_left_to_poller(batches)

    def open(self, batches: InFlight) -> bool:
        """Open the window if it is not yet, now that a task waits. True when it is to be left on the queue."""
        if self._is_left_to_poller(batches):
            return True
        # A process that polls has let them accumulate already.
        if not self._wait or all(batch.grant is not None for batch in batches):
            return False
        if self._until is None:
            self._until = self._clock() + self._wait
            self._timer.call_after(self._wait, lambda: None)
        return self._clock() < self._until

    def _is_left_to_poller(self, batches: InFlight) -> bool:
        """True when a process polls the queue, or will as soon as it has run what it has."""
        poller = batches.poller
        if poller is None:
            return False
        since, is_idle = self._scoreboard.since(poller.slot)
        now = self._clock()
        # One that is idle for longer hangs, or is about to return its results.
        if now >= since + (2 * POLL_TIMEOUT if is_idle else self._wait):
            return False
        if now >= self._next_check:
            # Do not rely on the timer alone: Celery drops its timers when the connection breaks.
            self._next_check = now + WINDOW_CHECK_INTERVAL
            self._timer.call_after(WINDOW_CHECK_INTERVAL, lambda: None)
        return True
