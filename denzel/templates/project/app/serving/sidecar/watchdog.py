"""Looks after a worker from outside of it: one that takes nothing, although tasks wait, is to be started again."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable

from redis import Redis, RedisError

from app.serving.store import keys

log = logging.getLogger(__name__)

#: Seconds between two looks, and seconds of standstill after which a worker counts as hung.
LOOK_EVERY = 5.0
PATIENCE = 60.0


class Watchdog:
    """Watches the worker `name` on this host, through what it leaves in Redis: the worker need not answer."""

    def __init__(
        self,
        redis: Redis,
        name: str,
        *,
        host: str | None = None,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._name = name
        self._host = host or socket.gethostname()
        self._patience = patience
        self._clock = clock
        self._taken: str | None = None
        self._still_since: float | None = None

    def run(self, stopping: threading.Event, end_worker: Callable[[], None]) -> None:
        """Look until `stopping` is set; call `end_worker` when the worker hangs."""
        while not stopping.wait(LOOK_EVERY):
            try:
                hangs = self.hangs()
            except RedisError:
                # Without Redis nothing can be taken, and nothing be told.
                self._still_since = None
                continue
            if hangs:
                log.error("tasks wait, and the worker has taken none for %d s: ending it", self._patience)
                end_worker()
                return

    def hangs(self) -> bool:
        """Whether at this look, and at every look for as long as the patience, the worker took nothing it could take.

        Raises redis.RedisError when Redis is away.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.llen(keys.QUEUE)
            pipe.get(keys.taken(self._host))
            pipe.hvals(keys.OWNERS)
            pipe.hgetall(keys.worker(self._name))
            waiting, taken, claimants, report = pipe.execute()
        held = sum(claimant.startswith(f"{self._host}/") for claimant in claimants)
        processes = [state for field, state in report.items() if field.startswith(f"process:{self._host}/")]
        # A worker that reports no process says nothing of itself any more, and may hang for that very reason.
        occupied = bool(processes) and held >= sum(state.startswith("UP") for state in processes)
        moved = taken != self._taken
        self._taken = taken
        if not waiting or occupied or moved:
            self._still_since = None
            return False
        if self._still_since is None:
            self._still_since = self._clock()
        return self._clock() - self._still_since >= self._patience
