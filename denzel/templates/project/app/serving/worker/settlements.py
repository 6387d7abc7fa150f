"""Task settlements (failures and requeues) buffered while Redis is unreachable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from redis import RedisError

from app.serving.errors import time_limit_failure
from app.serving.json_values import json_text
from app.serving.store.claims import Claims, DeadLettered
from app.serving.store.tasks import FAILURE, Completion, TaskStore

log = logging.getLogger(__name__)


class Settlements:
    """Tasks of one worker that are to be requeued, or have failed, until Redis has acknowledged that."""

    def __init__(
        self, claims_of: Callable[..., Claims], store: TaskStore, *, ttl: int, time_limit: float | None
    ) -> None:
        """`claims_of` makes the claims of an owner, in an epoch; results are kept for `ttl` seconds."""
        self._claims_of = claims_of
        self._store = store
        self._ttl = ttl
        self._time_limit = time_limit
        self._completions: list[Completion] = []
        #: By owner and epoch.
        self._to_requeue: dict[tuple[str, int], list[str]] = {}
        self._dead: dict[str, Collection[str]] = {}

    @property
    def owners(self) -> list[str]:
        """Dead owners whose tasks are not requeued yet: until then their leases are to be renewed."""
        return list(self._dead)

    def requeue(self, owner: str, epoch: int, task_ids: list[str]) -> None:
        """Requeue some tasks that a living owner has claimed in this epoch."""
        if task_ids:
            self._to_requeue.setdefault((owner, epoch), []).extend(task_ids)

    def died(self, owner: str, suspects: Collection[str], *, overdue: str = "") -> None:
        """Requeue all tasks of an owner: its process has ended, and may have died of the `suspects`. One that was
        `overdue` has failed.
        """
        if overdue:
            result = json_text(time_limit_failure(self._time_limit or 0))
            self._completions.append(Completion(overdue, FAILURE, result))
        self._dead[owner] = suspects

    def flush(self) -> list[DeadLettered]:
        """Write all; what Redis does not take now is kept. Returns tasks that killed their process too often."""
        dead_lettered: list[DeadLettered] = []
        try:
            if self._completions:
                self._store.complete_many(self._completions, ttl=self._ttl)
                self._completions = []
            for owner, suspects in list(self._dead.items()):
                dead_lettered += self._claims_of(owner).requeue_all(suspects)
                del self._dead[owner]
            for holder, task_ids in list(self._to_requeue.items()):
                dead_lettered += self._claims_of(*holder).requeue(task_ids)
                del self._to_requeue[holder]
        except RedisError as error:
            log.warning("tasks could not be settled, trying again: %s", error)
        return dead_lettered
