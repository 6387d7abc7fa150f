"""What is to be said to Redis of tasks that a worker has taken, and is kept while Redis is away."""

from __future__ import annotations

import logging

from redis import RedisError

from app.serving.store.claims import Claims, DeadLettered
from app.serving.store.tasks import Completion, TaskStore
from app.serving.worker.batching.in_flight import TaskView

log = logging.getLogger(__name__)


class PendingSettlements:
    """Tasks that go back to the queue, with the request of each that Celery knew; and ends of tasks."""

    def __init__(self, claims: Claims, records: TaskStore, *, lifetime: int) -> None:
        self._claims = claims
        self._records = records
        self._lifetime = lifetime
        self._to_give_back: dict[str, tuple[TaskView | None, bool]] = {}
        self._to_end: list[Completion] = []

    @property
    def going_back(self) -> list[str]:
        """The ids of tasks that have not gone back yet."""
        return list(self._to_give_back)

    def give_back(self, task_id: str, request: TaskView | None = None, *, died: bool = False) -> None:
        """A task goes back to the queue; a process may have died of it."""
        self._to_give_back[task_id] = request, died

    def end(self, end: Completion) -> None:
        """A task has ended."""
        self._to_end.append(end)

    def say(self) -> list[tuple[DeadLettered, TaskView | None]]:
        """Say it all; what cannot be said now is kept. Returns the tasks that were given up instead of going back."""
        try:
            if self._to_end:
                self._records.complete_many(self._to_end, ttl=self._lifetime)
                self._to_end = []
            if self._to_give_back:
                given_up = self._claims.requeue({task: died for task, (_, died) in self._to_give_back.items()})
                requests, self._to_give_back = self._to_give_back, {}
                return [(one, requests[one.task_id][0]) for one in given_up]
        except RedisError as error:
            log.warning("what became of some tasks could not be stored, trying again: %s", error)
        return []
