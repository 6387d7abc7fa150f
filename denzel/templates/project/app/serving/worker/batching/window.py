"""Whether what waits at the queue is left there for a moment, so that more of it travels together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from app.serving.worker.batching.in_flight import InFlight
from app.serving.worker.batching.poller import POLL_TIMEOUT
from app.serving.worker.batching.scoreboard import Scoreboard

#: Seconds between two looks at whether a process that stays at the queue is held up.
WINDOW_CHECK_INTERVAL = 0.005


class BatchWindow:
    """While a process is at work, and so could soon take more at once, what comes gathers for `wait` seconds at most.

    What comes while a process is at the queue is that one's.
    """

    def __init__(self, scoreboard: Scoreboard, wait: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._scoreboard = scoreboard
        self._wait = wait
        self._clock = clock
        self._timer: Any = None
        self._until: float | None = None
        self._looks_at = 0.0

    def start(self, timer: Any) -> None:
        """With the timer of an event loop, which looks at its queue again after each call."""
        self._timer = timer

    def end(self, *, there_is_enough: bool = False) -> None:
        """What waits may be taken; what gathers next gathers anew, unless enough has."""
        self._until = self._clock() if there_is_enough else None

    def goes_on(self, parcels: InFlight) -> bool:
        """Whether nothing is to be taken while these are on their way."""
        gathers = self._until is not None and len(parcels) > 0 and self._clock() < self._until
        return gathers or self._is_left_to_one_that_stays(parcels)

    def begins(self, parcels: InFlight) -> bool:
        """The same, now that something waits: it begins to gather, unless it has."""
        if self._is_left_to_one_that_stays(parcels):
            return True
        # For one that stays at the queue, what comes has gathered already.
        if not self._wait or all(parcel.stay is not None for parcel in parcels):
            return False
        if self._until is None:
            self._until = self._clock() + self._wait
            self._timer.call_after(self._wait, lambda: None)
        return self._clock() < self._until

    def _is_left_to_one_that_stays(self, parcels: InFlight) -> bool:
        """Whether a process at the queue takes what comes, or will as soon as it is through with what it has."""
        parcel = parcels.staying
        if parcel is None:
            return False
        since, rests = self._scoreboard.since(parcel.slot)
        now = self._clock()
        # One that rests for longer hangs, or is on its way here.
        if now >= since + (2 * POLL_TIMEOUT if rests else self._wait):
            return False
        if now >= self._looks_at:
            # Celery may have dropped all its timers meanwhile, so this is no matter of one that was set.
            self._looks_at = now + WINDOW_CHECK_INTERVAL
            self._timer.call_after(WINDOW_CHECK_INTERVAL, lambda: None)
        return True
