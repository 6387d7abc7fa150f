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

    def __init__(self, claims: Claims, records: TaskStore, events: TaskEvents, *, ttl: int) -> None:
        """Results are kept for `ttl` seconds."""
        self._claims = claims
        self._records = records
        self._events = events
        self._ttl = ttl
        self._requeues: dict[str, tuple[TaskView | None, bool]] = {}
        self._completions: list[Completion] = []

    @property
    def to_requeue(self) -> list[str]:
        """The ids of tasks that are not requeued yet."""
        return list(self._requeues)

    def requeue(self, task_id: str, view: TaskView | None = None, *, died: bool = False) -> None:
        """Requeue a task at the next `flush`; True for `died` when its process may have died of it."""
        self._requeues[task_id] = view, died

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
            self._events.given_up(task, view)

    def _write(self) -> list[tuple[DeadLettered, TaskView | None]]:
        try:
            if self._completions:
                self._records.complete_many(self._completions, ttl=self._ttl)
                self._completions = []
            if self._requeues:
                given_up = self._claims.requeue({task_id: died for task_id, (_, died) in self._requeues.items()})
                requeued, self._requeues = self._requeues, {}
                return [(task, requeued[task.task_id][0]) for task in given_up]
        except RedisError as error:
            log.warning("tasks could not be settled, trying again: %s", error)
        return []
