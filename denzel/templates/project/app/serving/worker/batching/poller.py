"""A pool process that polls the queue: when its batch has ended, it takes the next tasks itself.

Handing over a batch costs two context switches and 0.5 ms of CPU in the worker's main process, more than a fast model
needs. What is polled is noted in Redis in the same step: so the main process renews the claims on it, and can read what
it had when it dies (worker/batching/dispatcher.py).
"""

from __future__ import annotations

import time
from typing import NamedTuple

from redis import RedisError

from app.serving.store.claims import Claims
from app.serving.store.messages import QueuedTask, parse
from app.serving.worker.batching.scoreboard import Clock, Scoreboard

#: Seconds that a process waits for a task; and after which, counted from the start of its batch, it returns its results
#: to the main process although more tasks wait.
POLL_TIMEOUT = 0.05
SESSION_LIMIT = 0.25


class PollGrant(NamedTuple):
    """The permission to poll the queue: the id of the session in Redis, and the most tasks to take at once."""

    session_id: int
    limit: int


class PollSession:
    """The polls of one process, which follow on the batch that was handed to it."""

    def __init__(
        self, claims: Claims, scoreboard: Scoreboard, slot: int, grant: PollGrant, *, clock: Clock = time.monotonic
    ) -> None:
        self._claims = claims
        self._scoreboard = scoreboard
        self._slot = slot
        self._grant = grant
        self._clock = clock
        self._until = clock() + SESSION_LIMIT
        self._round = 0
        #: The ids of tasks that were taken and cannot run in a batch.
        self.to_requeue: list[str] = []
        #: Cancelled tasks whose turn came.
        self.cancelled: list[QueuedTask] = []

    def next(self, *, waiting: int) -> list[QueuedTask]:
        """The tasks to run next, while so many are known to be `waiting`.

        Empty when none came in time, or the session is over.
        """
        if self.to_requeue or self._clock() > self._until or not self._scoreboard.may_poll(self._slot):
            return []
        if not waiting:
            self._scoreboard.idle(self._slot)
        try:
            taken = self._claims.poll(
                self._grant.session_id, self._round + 1, limit=self._grant.limit, wait=0 if waiting else POLL_TIMEOUT
            )
        except RedisError:
            # The main process handles that: it requeues what was taken if the answer was lost.
            return []
        tasks = []
        for claimed in taken.claimed:
            task = parse(claimed.message, claimed.since)
            if task is not None:
                tasks.append(task)
            else:
                self.to_requeue.append(claimed.tag)
        self.cancelled += taken.cancelled
        if tasks:
            self._round += 1
            self._scoreboard.assign_round(self._slot, len(tasks), self._round)
        return tasks
