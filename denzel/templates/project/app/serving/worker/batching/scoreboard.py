"""Scoreboard in shared memory: each pool process publishes which task of its batch it runs; the worker's main process
can cut the batch short. Named after Apache httpd's.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable

Clock = Callable[[], float]

#: The number of batches that can be in flight at once.
SLOTS = 4096

#: The index of a batch whose tasks all run at once, and of one that no process has started.
ALL = -1
NOT_STARTED = -2

_CELL = 8
_FIELDS = 5
_INDEX, _END, _POLLS, _ROUND, _SINCE = range(_FIELDS)


class Scoreboard:
    """A slot for each batch: the index of the task that runs, and of the first that must not; whether the process may
    poll the queue afterwards, which round of polled tasks it runs, and since when.

    Make it before the fork, so that all processes share the memory. Reading and writing a cell is atomic.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """The clock must be the same in all processes."""
        self._cells = memoryview(mmap.mmap(-1, SLOTS * _FIELDS * _CELL)).cast("q")
        self._clock = clock

    def assign(self, slot: int, end: int, *, polls: bool = False) -> None:
        """Assign the slot to a batch of `end` tasks; its process may poll the queue afterwards if it `polls`."""
        self._set(slot, _POLLS, polls)
        self.assign_round(slot, end, 0)

    def assign_round(self, slot: int, end: int, number: int) -> None:
        """Assign the slot to `end` tasks that the process has polled, as the round of this number."""
        self._set(slot, _INDEX, NOT_STARTED)
        self._set(slot, _END, end)
        self._set(slot, _ROUND, number)
        self._set(slot, _SINCE, self._now())

    def start(self, slot: int, index: int) -> bool:
        """Publish that the process is about to run the task at `index`; False when it must not any more."""
        self._set(slot, _INDEX, index)
        return index < self._get(slot, _END)

    def index(self, slot: int) -> int:
        """The index of the task that runs, NOT_STARTED, or ALL; one beyond the last when all have run."""
        return self._get(slot, _INDEX)

    def truncate(self, slot: int) -> int:
        """Let a process that runs tasks in turn stop after the current one. Returns the first index that is left out.

        Should process and main process miss each other's write, the next task runs here and elsewhere.
        """
        self.revoke_grant(slot)
        end = self.index(slot) + 1
        self._set(slot, _END, end)
        # The process may have started the next task in between, without having seen the new end.
        return max(end, self.index(slot) + 1)

    def idle(self, slot: int) -> None:
        """Publish that the process has nothing to run, and waits at the queue."""
        self._set(slot, _SINCE, -self._now())

    def may_poll(self, slot: int) -> bool:
        """True while the process may take tasks from the queue itself."""
        return bool(self._get(slot, _POLLS))

    def revoke_grant(self, slot: int) -> None:
        """Let the process take nothing more from the queue."""
        self._set(slot, _POLLS, False)

    def round(self, slot: int) -> int:
        """The number of the round that the process runs, or ran last; 0 is the batch it was handed."""
        return self._get(slot, _ROUND)

    def since(self, slot: int) -> tuple[float, bool]:
        """The time, by the clock, since when the process has its tasks or has been idle; and True when it is idle."""
        since = self._get(slot, _SINCE)
        return abs(since) / 1e9, since < 0

    def _now(self) -> int:
        return int(self._clock() * 1e9)

    def _get(self, slot: int, field: int) -> int:
        return self._cells[_FIELDS * slot + field]

    def _set(self, slot: int, field: int, value: int) -> None:
        self._cells[_FIELDS * slot + field] = value
