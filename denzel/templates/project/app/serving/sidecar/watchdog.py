"""Watchdog of a worker, in another process: a worker that takes no tasks although some wait is to be restarted."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable

from redis import Redis, RedisError

from app.serving.store import keys

log = logging.getLogger(__name__)

#: Seconds between two checks, and seconds without progress after which a worker hangs.
HANG_CHECK_INTERVAL = 5.0
HANG_TIMEOUT = 60.0


class Watchdog:
    """Watches the worker `name` on this host by its traces in Redis: the worker need not respond."""

    def __init__(
        self,
        redis: Redis,
        name: str,
        *,
        host: str | None = None,
        timeout: float = HANG_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._name = name
        self._host = host or socket.gethostname()
        self._timeout = timeout
        self._clock = clock
        self._taken: str | None = None
        self._still_since: float | None = None

    def run(self, stopping: threading.Event, end_worker: Callable[[], None]) -> None:
        """Check until `stopping` is set; call `end_worker` when the worker hangs."""
        while not stopping.wait(HANG_CHECK_INTERVAL):
            try:
                hangs = self.hangs()
            except RedisError:
                # Without Redis the worker can take nothing.
                self._still_since = None
                continue
            if hangs:
                log.error("tasks wait, and the worker has taken none for %d s: ending it", self._timeout)
                end_worker()
                return

    def hangs(self) -> bool:
        """True when at this check, and at all checks within the timeout, the worker took none of the tasks it could.

        Raises redis.RedisError when Redis is away.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.llen(keys.QUEUE)
            pipe.get(keys.taken(self._host))
            pipe.hvals(keys.OWNERS)
            pipe.hgetall(keys.worker(self._name))
            waiting, taken, owners, report = pipe.execute()
        held = sum(owner.startswith(f"{self._host}/") for owner in owners)
        processes = [state for field, state in report.items() if field.startswith(f"process:{self._host}/")]
        # A worker that has no process registered any more may hang for that very reason.
        is_busy = bool(processes) and held >= sum(state.startswith("UP") for state in processes)
        has_progressed = taken != self._taken
        self._taken = taken
        if not waiting or is_busy or has_progressed:
            self._still_since = None
            return False
        if self._still_since is None:
            self._still_since = self._clock()
        return self._clock() - self._still_since >= self._timeout
