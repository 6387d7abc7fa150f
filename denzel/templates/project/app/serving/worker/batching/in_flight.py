"""In-flight batches: the main process' record of the tasks that its pool processes have."""

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
    """A task of a batch as Celery's `inspect` and `control` commands use it: a stand-in for Celery's own Request."""

    name = TASK_NAME

    def __init__(self, task: QueuedTask, batch: Batch, cancel: Callable[[str], None]) -> None:
        self.id = task.task_id
        self.args_repr = task.args_repr
        self.since = task.since
        self.time_start = time.time()
        self._batch = batch
        self._cancel = cancel

    def info(self, safe: bool = False) -> dict[str, Any]:
        """The task as `celery inspect active` shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "args": self.args_repr,
            "kwargs": "{}",
            "type": self.name,
            "time_start": self.time_start,
            "acknowledged": False,
            "worker_pid": self._batch.pid,
        }

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Kill the process that runs the task."""
        self._cancel(self.id)


class Batch:
    """Tasks that a pool process has, or is about to get. No end is known yet of those that are `pending`."""

    def __init__(self, slot: int, grant: PollGrant | None, cancel: Callable[[str], None]) -> None:
        self.slot = slot
        #: Set where the process may poll the queue, and take the next tasks itself.
        self.grant = grant
        #: The round that `tasks` are; 0 is what was handed over.
        self.round = 0
        self.tasks: list[QueuedTask] = []
        self.pending: dict[str, TaskView] = {}
        #: The ids of all tasks that were ever pending.
        self.task_ids: set[str] = set()
        self.pid: int | None = None
        self.job: Any = None
        #: The task for which the process was killed.
        self.killed_for: str | None = None
        #: The latest round that the dashboard shows as started.
        self.reported_round: int | None = None
        self._cancel = cancel

    def assign(self, tasks: list[QueuedTask]) -> None:
        """Make these the tasks that the process has now."""
        self.tasks = tasks
        for task in tasks:
            if task.task_id not in self.pending:
                view = TaskView(task, self, self._cancel)
                self.pending[view.id] = view
                self.task_ids.add(view.id)
                celery_state.task_accepted(view)

    def close(self, task_id: str) -> TaskView | None:
        """Remove a task that has ended, or is to be requeued. None where it was not pending."""
        view = self.pending.pop(task_id, None)
        if view is not None:
            celery_state.task_ready(view)
        return view

    def count_polled(self, task_ids: Iterable[str]) -> None:
        """Close the tasks that the process polled and ran: Celery counts them all."""
        for task_id in task_ids:
            if self.close(task_id) is None:
                celery_state.count_task()

    def index_of(self, task_id: str) -> int:
        """The index of a task in its round."""
        return next(index for index, task in enumerate(self.tasks) if task.task_id == task_id)


class InFlight:
    """The batches of one worker that are in flight."""

    def __init__(self, claims: Claims, scoreboard: Scoreboard) -> None:
        self._claims = claims
        self._scoreboard = scoreboard
        self._batches: set[Batch] = set()
        # In turn, so that none is soon used again: a process that the pool has given up may still write to its slot.
        self._slots = deque(range(SLOTS))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        # Another thread may iterate while they change.
        return iter(list(self._batches))

    @property
    def poller(self) -> Batch | None:
        """The batch whose process polls the queue, or will; there is one at a time."""
        return next((batch for batch in self if batch.grant is not None), None)

    def add(self, tasks: list[QueuedTask], grant: PollGrant | None, cancel: Callable[[str], None]) -> Batch:
        """A new batch of these tasks; `cancel` is called with the id of one that Celery is asked to terminate."""
        batch = Batch(self._slots.popleft(), grant, cancel)
        self._scoreboard.assign(batch.slot, len(tasks), polls=grant is not None)
        self._batches.add(batch)
        batch.assign(tasks)
        return batch

    def remove(self, batch: Batch) -> None:
        """Remove a batch that has ended."""
        if batch in self._batches:
            # The pool drops jobs when a connection breaks, and the process is not aware of that.
            self._scoreboard.revoke_grant(batch.slot)
            self._batches.remove(batch)
            self._slots.append(batch.slot)

    def index(self, batch: Batch) -> int:
        """The index of the task that a batch's process runs; NOT_STARTED also when it has polled others by now."""
        # In this order: a process that polls in between publishes NOT_STARTED before the next round.
        index = self._scoreboard.index(batch.slot)
        return index if self._scoreboard.round(batch.slot) == batch.round else NOT_STARTED

    def sync_from_redis(self, batch: Batch) -> None:
        """Load the tasks that the batch's process polled by itself."""
        if batch.grant is None:
            return
        try:
            number, tasks = self._claims.session_tasks(batch.grant.session_id)
        except RedisError as error:
            # A claim on a task that is not known here is not renewed, and the task is requeued.
            log.warning("the tasks that a process polled could not be read: %s", error)
            return
        # It may have polled again meanwhile.
        if number > batch.round and number >= self._scoreboard.round(batch.slot):
            batch.round = number
            batch.assign(tasks)

    def find(self, task_id: str) -> Batch | None:
        """The batch whose process has this task, whether it runs yet or not."""
        for batch in self:
            if task_id not in batch.pending:
                self.sync_from_redis(batch)
            if task_id in batch.pending and any(task.task_id == task_id for task in batch.tasks):
                return batch
        return None
