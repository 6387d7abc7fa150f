"""Task settlements (completions and requeues) buffered while Redis is unreachable."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from redis import RedisError

from app.serving.store.claims import Claims, DeadLettered
from app.serving.store.tasks import Completion, TaskStore
from app.serving.worker.batching.events import TaskEvents
from app.serving.worker.batching.in_flight import Batch, TaskView

log = logging.getLogger(__name__)


class PendingSettlements:
    """Tasks of one worker that have ended, or are to be requeued, until Redis has acknowledged that."""

    def __init__(self, claims: Claims, store: TaskStore, events: TaskEvents, *, ttl: int) -> None:
        """Results are kept for `ttl` seconds."""
        self._claims = claims
        self._store = store
        self._events = events
        self._ttl = ttl
        #: Tasks that are not requeued yet, by id: the view of each, and True when its process may have died of it.
        self.to_requeue: dict[str, tuple[TaskView | None, bool]] = {}
        self._completions: list[Completion] = []

    def requeue(self, task_id: str, view: TaskView | None = None, *, died: bool = False) -> None:
        """Requeue a task at the next `flush`."""
        self.to_requeue[task_id] = view, died

    def requeue_from(self, batch: Batch, task_ids: Iterable[str], *, died: Collection[str] = ()) -> None:
        """Requeue those of a batch's tasks that are still pending; the process may have `died` of some."""
        for task_id in list(task_ids):
            view = batch.close(task_id)
            if view is not None:
                self.requeue(task_id, view, died=task_id in died)
        self.flush()

    def complete(self, completion: Completion) -> None:
        """Store the end of a task at the next `flush`."""
        self._completions.append(completion)

    def flush(self) -> None:
        """Write all; what Redis does not take now is kept. A task that killed its process too often ends instead."""
        for task, view in self._write():
            self._events.dead_lettered(task, view)

    def _write(self) -> list[tuple[DeadLettered, TaskView | None]]:
        try:
            if self._completions:
                self._store.complete_many(self._completions, ttl=self._ttl)
                self._completions = []
            if self.to_requeue:
                dead_lettered = self._claims.requeue({task_id: died for task_id, (_, died) in self.to_requeue.items()})
                requeued, self.to_requeue = self.to_requeue, {}
                return [(task, requeued[task.task_id][0]) for task in dead_lettered]
        except RedisError as error:
            log.warning("tasks could not be settled, trying again: %s", error)
        return []
