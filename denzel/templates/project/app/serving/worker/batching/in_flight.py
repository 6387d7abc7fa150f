"""What the main process of a worker knows of the tasks that it has taken."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from redis import RedisError

from app.serving.store.claims import Claims
from app.serving.store.messages import TASK_NAME, QueuedTask
from app.serving.worker.batching import celery_state
from app.serving.worker.batching.poller import PollGrant
from app.serving.worker.batching.scoreboard import NOT_STARTED, SLOTS, Scoreboard

log = logging.getLogger(__name__)


class TaskView:
    """One task of a parcel, as Celery's state and its `inspect` and `control` commands know the tasks of a worker."""

    name = TASK_NAME

    def __init__(self, item: QueuedTask, parcel: Batch, end: Callable[[str], None]) -> None:
        self.id = item.task_id
        self.args_repr = item.args_repr
        self.since = item.since
        self.time_start = time.time()
        self._parcel = parcel
        self._end = end

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What `celery inspect active` shows."""
        return {
            "id": self.id,
            "name": self.name,
            "args": self.args_repr,
            "kwargs": "{}",
            "type": self.name,
            "time_start": self.time_start,
            "acknowledged": False,
            "worker_pid": self._parcel.pid,
        }

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """End the process that runs the task."""
        self._end(self.id)


class Batch:
    """Some tasks on their way to a pool process, or in it. `open` are those of which no end is known yet."""

    def __init__(self, slot: int, stay: PollGrant | None, end_task: Callable[[str], None]) -> None:
        self.slot = slot
        #: Set where the process may stay at the queue, and take the next tasks itself.
        self.stay = stay
        #: Which of its rounds `items` are; the first one's were handed over.
        self.round = 0
        self.items: list[QueuedTask] = []
        self.open: dict[str, TaskView] = {}
        #: The ids of all that were ever open.
        self.seen: set[str] = set()
        self.pid: int | None = None
        self.job: Any = None
        #: The task for which the process was ended.
        self.ended_for: str | None = None
        #: The round of which the dashboard was told that it runs.
        self.told: int | None = None
        self._end_task = end_task

    def hold(self, items: list[QueuedTask]) -> None:
        """These are what its process has now."""
        self.items = items
        for item in items:
            if item.task_id not in self.open:
                request = TaskView(item, self, self._end_task)
                self.open[request.id] = request
                self.seen.add(request.id)
                celery_state.accept(request)

    def close(self, task_id: str) -> TaskView | None:
        """The task has ended, or goes back to the queue. None where it was not open."""
        request = self.open.pop(task_id, None)
        if request is not None:
            celery_state.remove(request)
        return request

    def count_further(self, task_ids: Iterable[str]) -> None:
        """Its process took these tasks from the queue itself, and they ended there: Celery counts them all."""
        for task_id in task_ids:
            if self.close(task_id) is None:
                celery_state.count()

    def place_of(self, task_id: str) -> int:
        """At which place of its round a task is."""
        return next(place for place, item in enumerate(self.items) if item.task_id == task_id)


class InFlight:
    """The parcels of one worker that are on their way, and what is in each."""

    def __init__(self, claims: Claims, scoreboard: Scoreboard) -> None:
        self._claims = claims
        self._scoreboard = scoreboard
        self._parcels: set[Batch] = set()
        # In turn, so that one is not taken again soon: a process that the pool has given up may still write there.
        self._slots = deque(range(SLOTS))

    def __len__(self) -> int:
        return len(self._parcels)

    def __iter__(self) -> Iterator[Batch]:
        # Another thread may ask for them while they change.
        return iter(list(self._parcels))

    @property
    def staying(self) -> Batch | None:
        """The parcel whose process stays at the queue; one at a time does."""
        return next((parcel for parcel in self if parcel.stay is not None), None)

    def known(self) -> list[str]:
        """The ids of the tasks in all of them."""
        return [item.task_id for parcel in self for item in parcel.items]

    def begin(self, items: list[QueuedTask], stay: PollGrant | None, end_task: Callable[[str], None]) -> Batch:
        """A new parcel of these tasks; `end_task` is what Celery calls to end one of them."""
        parcel = Batch(self._slots.popleft(), stay, end_task)
        self._scoreboard.assign(parcel.slot, len(items), polls=stay is not None)
        self._parcels.add(parcel)
        parcel.hold(items)
        return parcel

    def end(self, parcel: Batch) -> None:
        """It is through."""
        if parcel in self._parcels:
            # The pool drops a job when a connection breaks, and its process knows nothing of that.
            self._scoreboard.revoke_grant(parcel.slot)
            self._parcels.remove(parcel)
            self._slots.append(parcel.slot)

    def place(self, parcel: Batch) -> int:
        """At which of the items of a parcel its process is; NOT_BEGUN also when it has others by now."""
        # In this order: a process that goes on in between says NOT_BEGUN before it says the next round.
        place = self._scoreboard.index(parcel.slot)
        return place if self._scoreboard.round(parcel.slot) == parcel.round else NOT_STARTED

    def learn(self, parcel: Batch) -> None:
        """What the process of a parcel has taken itself is known from now on as if it had been handed over."""
        if parcel.stay is None:
            return
        try:
            number, items = self._claims.session_tasks(parcel.stay.number)
        except RedisError as error:
            # What nobody knows of goes back to the queue.
            log.warning("what a process has taken could not be read: %s", error)
            return
        # It may have gone on meanwhile.
        if number > parcel.round and number >= self._scoreboard.round(parcel.slot):
            parcel.round = number
            parcel.hold(items)

    def find(self, task_id: str) -> Batch | None:
        """The parcel whose process has this task, or will come to it."""
        for parcel in self:
            if task_id not in parcel.open:
                self.learn(parcel)
            if task_id in parcel.open and any(item.task_id == task_id for item in parcel.items):
                return parcel
        return None
