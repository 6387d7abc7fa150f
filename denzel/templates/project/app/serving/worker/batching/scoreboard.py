"""What the worker's main process and its pool processes tell each other while a parcel runs, in memory they share."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable

#: How many parcels can be on their way at once.
SLOTS = 4096

#: The place of a parcel whose tasks all run at once, and of one that no process has begun.
ALL = -1
NOT_STARTED = -2

_CELL = 8
_FIELDS = 5
_PLACE, _END, _STAYS, _ROUND, _BEGAN = range(_FIELDS)


class Scoreboard:
    """A slot for each parcel: at which of its tasks the process is, and before which of them it is to stop; whether it
    may stay at the queue then, which of the rounds of tasks that it takes there it runs, and since when.

    Make it before the fork: it is one memory then. Reading and writing a cell is one step.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """The clock is the same in all processes."""
        self._cells = memoryview(mmap.mmap(-1, SLOTS * _FIELDS * _CELL)).cast("q")
        self._clock = clock

    def begin(self, slot: int, end: int, *, stays: bool = False) -> None:
        """A parcel of `end` tasks takes the slot."""
        self._set(slot, _STAYS, stays)
        self._begin(slot, end, 0)

    def enter(self, slot: int, place: int) -> bool:
        """The process is about to run the task at `place`; False when it must not any more."""
        self._set(slot, _PLACE, place)
        return place < self._get(slot, _END)

    def place(self, slot: int) -> int:
        """At which task the process is, NOT_BEGUN, or ALL; the one after the last when it has run all."""
        return self._get(slot, _PLACE)

    def cut(self, slot: int) -> int:
        """Let a process that runs tasks in turn end after the one at which it is. Returns the first that it leaves out.

        Should both look at the same moment, and not see each other, the next task runs here and elsewhere.
        """
        self.call_back(slot)
        end = self.place(slot) + 1
        self._set(slot, _END, end)
        # It may have gone on to the next in between, and not have seen that it must not.
        return max(end, self.place(slot) + 1)

    def begin_round(self, slot: int, end: int, number: int) -> None:
        """The process has taken `end` tasks from the queue itself, for the round of this number."""
        self._begin(slot, end, number)

    def rest(self, slot: int) -> None:
        """The process begins to wait at the queue."""
        self._set(slot, _BEGAN, -self._now())

    def may_stay(self, slot: int) -> bool:
        """Whether the process may take from the queue itself."""
        return bool(self._get(slot, _STAYS))

    def call_back(self, slot: int) -> None:
        """The process is to take nothing more."""
        self._set(slot, _STAYS, False)

    def round(self, slot: int) -> int:
        """Which round the process runs, or has run; 0 is what it was handed."""
        return self._get(slot, _ROUND)

    def began(self, slot: int) -> tuple[float, bool]:
        """Since when, by the clock, the process has what it has; and whether it has nothing, and waits at the queue."""
        began = self._get(slot, _BEGAN)
        return abs(began) / 1e9, began < 0

    def _begin(self, slot: int, end: int, number: int) -> None:
        self._set(slot, _PLACE, NOT_STARTED)
        self._set(slot, _END, end)
        self._set(slot, _ROUND, number)
        self._set(slot, _BEGAN, self._now())

    def _now(self) -> int:
        return int(self._clock() * 1e9)

    def _get(self, slot: int, field: int) -> int:
        return self._cells[_FIELDS * slot + field]

    def _set(self, slot: int, field: int, value: int) -> None:
        self._cells[_FIELDS * slot + field] = value
