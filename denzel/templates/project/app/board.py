"""What the worker's main process and its pool processes tell each other while a parcel runs, in memory they share."""

from __future__ import annotations

import mmap

#: How many parcels can be on their way at once.
SLOTS = 4096

#: The place of a parcel whose tasks all run at once, and of one that no process has begun.
ALL = -1
NOT_BEGUN = -2

_CELL = 8
_FIELDS = 2


class Board:
    """A slot for each parcel: at which of its tasks the process is, and before which of them it is to stop.

    Make it before the fork: it is one memory then. Reading and writing a cell is one step.
    """

    def __init__(self) -> None:
        self._cells = memoryview(mmap.mmap(-1, SLOTS * _FIELDS * _CELL)).cast("q")

    def begin(self, slot: int, end: int) -> None:
        """A parcel of `end` tasks takes the slot."""
        self._cells[_FIELDS * slot] = NOT_BEGUN
        self._cells[_FIELDS * slot + 1] = end

    def enter(self, slot: int, place: int) -> bool:
        """The process is about to run the task at `place`; False when it must not any more."""
        self._cells[_FIELDS * slot] = place
        return place < self._cells[_FIELDS * slot + 1]

    def place(self, slot: int) -> int:
        """At which task the process is, NOT_BEGUN, or ALL; the one after the last when it has run all."""
        return self._cells[_FIELDS * slot]

    def cut(self, slot: int) -> int:
        """Let a process that runs tasks in turn end after the one at which it is. Returns the first that it leaves out.

        Should both look at the same moment, and not see each other, the next task runs here and elsewhere.
        """
        end = self.place(slot) + 1
        self._cells[_FIELDS * slot + 1] = end
        # It may have gone on to the next in between, and not have seen that it must not.
        return max(end, self.place(slot) + 1)
