"""How tasks have ended, on the way from a process that predicts to Redis."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from redis import RedisError

from app.serving.store.tasks import Completion, TaskStore

log = logging.getLogger(__name__)

#: Seconds after which ends are told although the next task still runs; and bytes of results that are told at once at
#: most, so that it does not take long.
FLUSH_INTERVAL = 0.02
FLUSH_BYTES = 1024 * 1024

#: Seconds between two tries to tell them while Redis is away, at first and at most.
_FIRST_PAUSE = 0.05
_MAX_PAUSE = 1.0


class ResultWriter:
    """Gathers ends, and tells many in one go. None waits long for the task behind it, which may take hours."""

    def __init__(self, records: TaskStore, *, lifetime: int, sleep: Callable[[float], None] = time.sleep) -> None:
        """Results are kept for `lifetime` seconds. To be made in the process that uses it: threads survive no fork."""
        self._records = records
        self._lifetime = lifetime
        self._sleep = sleep
        self._lock = threading.Lock()
        self._ends: list[Completion] = []
        self._bytes = 0
        self._is_late = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, end: Completion, *, more: bool) -> None:
        """A task has ended; `more` are still to run before all are told."""
        with self._lock:
            self._ends.append(end)
            self._bytes += len(end.result)
            if self._bytes > FLUSH_BYTES:
                self._tell()
        if more and not self._is_late.is_set():
            self._is_late.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._tell_in_time, name="telling", daemon=True)
                self._thread.start()

    def tell(self) -> int:
        """Tell what has gathered, however long Redis is away. Returns how many tasks wait."""
        with self._lock:
            return self._tell()

    def _tell_in_time(self) -> None:
        while self._is_late.wait():
            time.sleep(FLUSH_INTERVAL)
            self._is_late.clear()
            self.tell()

    def _tell(self) -> int:
        if not self._ends:
            return 0
        pause = _FIRST_PAUSE
        while True:
            try:
                waiting = self._records.complete_many(self._ends, ttl=self._lifetime)
            except RedisError as error:
                log.warning("%d results could not be stored, trying again: %s", len(self._ends), error)
                self._sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE)
            else:
                self._ends, self._bytes = [], 0
                return waiting
