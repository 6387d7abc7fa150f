"""A pool process that stays at the queue: when its parcel is through, it takes the next tasks itself.

To be handed a parcel costs two ways between processes, and half a millisecond of the worker's main process. Quick tasks
take less than that. What is taken here is noted in Redis in the same step: so the main process keeps the claims on it,
and knows what it was when this process dies (worker/batching/dispatcher.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from redis import RedisError

from app.serving.store.claims import Claims
from app.serving.store.messages import QueuedTask, parse
from app.serving.worker.batching.scoreboard import Scoreboard

#: Seconds that a process waits at the queue for something to come; and after which, counted from the beginning of its
#: parcel, it tells the main process what it has done, although there is more to do.
POLL_TIMEOUT = 0.05
SESSION_LIMIT = 0.25


class PollGrant(NamedTuple):
    """The leave to stay at the queue: its number, by which it is known in Redis, and the most tasks to take at once."""

    number: int
    most: int


class PollSession:
    """One stay at the queue; it begins with the parcel that was handed over."""

    def __init__(
        self,
        claims: Claims,
        scoreboard: Scoreboard,
        slot: int,
        stay: PollGrant,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._claims = claims
        self._scoreboard = scoreboard
        self._slot = slot
        self._stay = stay
        self._clock = clock
        self._until = clock() + SESSION_LIMIT
        self._round = 0
        #: The ids of tasks that were taken, and are not for a parcel: to be given back.
        self.left: list[str] = []
        #: Cancelled tasks, whose turn came.
        self.cancelled: list[QueuedTask] = []

    def next(self, *, waiting: int) -> list[QueuedTask]:
        """What is to run now, while so many are known to be waiting. Nothing when it is time to go back."""
        if self.left or self._clock() > self._until or not self._scoreboard.may_poll(self._slot):
            return []
        if not waiting:
            self._scoreboard.idle(self._slot)
        try:
            taken = self._claims.poll(
                self._stay.number, self._round + 1, limit=self._stay.most, wait=0 if waiting else POLL_TIMEOUT
            )
        except RedisError:
            # The main process sees to that. What was taken, and not heard of, it gives back.
            return []
        items = []
        for claimed in taken.claimed:
            item = parse(claimed.message, claimed.since)
            if item is not None:
                items.append(item)
            else:
                self.left.append(claimed.tag)
        self.cancelled += taken.cancelled
        if items:
            self._round += 1
            self._scoreboard.assign_round(self._slot, len(items), self._round)
        return items
