"""Scoreboard in shared memory: each process publishes which tasks it has and which it runs; the worker reads that, also
after its death, and can cut its batch short. Named after Apache httpd's.
"""

from __future__ import annotations

import enum
import mmap
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.serving.store.messages import MAX_ID

Clock = Callable[[], float]


class Activity(enum.IntEnum):
    """A process loads its model, stands by until it has the place at the queue, waits there, or runs tasks."""

    LOADING = 0
    STANDBY = 1
    WAITING = 2
    RUNNING = 3


#: The index of a batch whose tasks all run at once, and of one of which no task was started.
ALL = -1
NOT_STARTED = -2

_CELL = 8
_FIELDS = 9
_ACTIVITY, _BEGAN, _SINCE, _VERSION, _LENGTH, _INDEX, _END, _ENDED, _EPOCH = range(_FIELDS)

# More than a batch has tasks: the end of a batch is stored together with the version of its list.
_MAX_TASKS = 1 << 20

# Reads of a list that its process is writing, before it counts as torn: as when it died of that.
_MAX_READS = 1000


class View(NamedTuple):
    """A process at one moment: its activity, and while it runs the seconds since its current task began, 0 for one that
    has been run, the ids of its batch without those that were cut off, and the position there of the task that runs.
    """

    activity: Activity
    seconds: float
    batch: list[str]
    position: int

    @property
    def suspects(self) -> list[str]:
        """The tasks of which the process may die at this moment."""
        if self.position in (ALL, NOT_STARTED):
            # Those that run together are all suspects, and so are those of a process that dies before it starts one.
            return self.batch
        return self.batch[self.position : self.position + 1]


class Slot:
    """The part of the scoreboard of one process. Reading and writing a cell is atomic."""

    def __init__(self, cells: memoryview, names: memoryview, clock: Clock) -> None:
        self._cells = cells
        self._names = names
        self._clock = clock

    def reset(self) -> None:
        """Make the slot that of a new process, which loads its model."""
        for field in range(_FIELDS):
            self._cells[field] = 0
        self._cells[_BEGAN] = self._now()

    def stand_by(self) -> None:
        """Publish that the process waits until it has the place at the queue."""
        self._cells[_ACTIVITY] = Activity.STANDBY
        self._cells[_BEGAN] = self._now()

    def wait(self) -> None:
        """Publish that the process waits at the queue; to be repeated while it does."""
        self._cells[_ACTIVITY] = Activity.WAITING
        self._cells[_BEGAN] = self._now()

    def begin(self, batch: Sequence[str]) -> None:
        """Publish the ids of the tasks that the process has now."""
        names = "\n".join(batch).encode()
        self._cells[_VERSION] += 1
        self._names[: len(names)] = names
        self._cells[_LENGTH] = len(names)
        self._cells[_INDEX] = NOT_STARTED
        self._cells[_END] = (self._cells[_VERSION] + 1) * _MAX_TASKS + len(batch)
        self._cells[_BEGAN] = self._cells[_SINCE] = self._now()
        self._cells[_ACTIVITY] = Activity.RUNNING
        self._cells[_VERSION] += 1

    def start(self, index: int) -> bool:
        """Publish that the process is about to run the task at `index`, or ALL; False when it must not any more."""
        self._cells[_SINCE] = self._now()
        self._cells[_INDEX] = index
        version, end = divmod(self._cells[_END], _MAX_TASKS)
        # One that was meant for the batch before does not count.
        return index < end or version != self._cells[_VERSION]

    def pause(self) -> None:
        """Publish that the task has been run: what follows, until the next one, is not its time."""
        self._cells[_SINCE] = 0

    def count(self, tasks: int) -> None:
        """Publish that so many more tasks have ended."""
        self._cells[_ENDED] += tasks

    def begin_epoch(self, epoch: int) -> None:
        """Publish the epoch of the process' claims."""
        self._cells[_EPOCH] = epoch

    @property
    def ended(self) -> int:
        """The number of tasks that the process has run."""
        return self._cells[_ENDED]

    @property
    def epoch(self) -> int:
        """The epoch of the process' claims."""
        return self._cells[_EPOCH]

    @property
    def activity(self) -> Activity:
        """The process' activity."""
        return Activity(self._cells[_ACTIVITY])

    @property
    def seconds(self) -> float:
        """The seconds since the process began what it does: since it began its batch, while it runs."""
        return (self._now() - self._cells[_BEGAN]) / 1e9

    def view(self) -> View:
        """The process at this moment."""
        return self._read()[1]

    def running(self) -> list[str]:
        """The tasks that the process runs at this moment, or ran when it died."""
        view = self.view()
        return view.suspects if view.activity is Activity.RUNNING and view.position != NOT_STARTED else []

    def truncate(self) -> list[str]:
        """Let a process that runs tasks in turn stop after the current one. Returns the ids that are left out.

        Should process and worker miss each other's write, the next task runs here and elsewhere. One that the process
        was about to start, and left out, is not among them: the process requeues it.
        """
        version, view = self._read()
        if not view.batch or view.position in (ALL, NOT_STARTED):
            return []
        end = view.position + 1
        self._cells[_END] = version * _MAX_TASKS + end
        position = self._cells[_INDEX]
        if version == self._cells[_VERSION]:
            # The process may have started the next task in between, without having seen the new end.
            end = max(end, position + 1)
        # Else it has the next batch by now, and has completed whatever it has run of this one.
        return view.batch[end:]

    def _read(self) -> tuple[int, View]:
        """The process at this moment, and the version of its batch."""
        for _ in range(_MAX_READS):
            version, activity = self._cells[_VERSION], self.activity
            batch = self._batch() if activity is Activity.RUNNING and not version % 2 else []
            # In this order: a time that is not its own would make a task that has just started look old.
            position, since = self._cells[_INDEX], self._cells[_SINCE]
            cut, end = divmod(self._cells[_END], _MAX_TASKS)
            if not version % 2 and version == self._cells[_VERSION]:
                if cut == version:
                    # One that was started in the moment of the cut is still the process'.
                    batch = batch[: max(end, position + 1)]
                return version, View(activity, (self._now() - since) / 1e9 if since else 0.0, batch, position)
        return 0, View(Activity.WAITING, 0.0, [], NOT_STARTED)

    def _batch(self) -> list[str]:
        return bytes(self._names[: self._cells[_LENGTH]]).decode(errors="replace").split("\n")

    def _now(self) -> int:
        return int(self._clock() * 1e9)


def make_slots(number: int, max_tasks: int, clock: Clock = time.monotonic) -> list[Slot]:
    """Slots for so many processes, with batches of up to `max_tasks`, in memory that they share: make them before the
    fork. The clock must be the same in all processes.
    """
    length = (MAX_ID * 4 + 1) * max_tasks
    size = _FIELDS * _CELL
    cells = memoryview(mmap.mmap(-1, number * size)).cast("q")
    names = memoryview(mmap.mmap(-1, number * length))
    slots = [
        Slot(cells[_FIELDS * one : _FIELDS * (one + 1)], names[length * one : length * (one + 1)], clock)
        for one in range(number)
    ]
    for slot in slots:
        slot.reset()
    return slots
