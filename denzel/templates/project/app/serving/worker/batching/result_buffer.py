"""Buffer of the results of a batch: stored with its last one, or before when a task behind them runs long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from redis import RedisError

from app.serving.backoff import pauses
from app.serving.store.tasks import Completion, TaskStore

log = logging.getLogger(__name__)

#: Seconds after which results are stored although the next task still runs; and the most bytes that are buffered, so
#: that storing them does not take long.
MAX_DELAY = 0.02
MAX_BUFFERED_BYTES = 1024 * 1024

#: Seconds between two tries while Redis is away, at first and at most.
FIRST_PAUSE = 0.05
MAX_PAUSE = 1.0


class ResultBuffer:
    """The results of one process. None waits long for the task behind it, which may take hours."""

    def __init__(self, store: TaskStore, *, ttl: int, sleep: Callable[[float], None] = time.sleep) -> None:
        """Results are kept for `ttl` seconds. Make it in the process that uses it: its thread survives no fork."""
        self._store = store
        self._ttl = ttl
        self._sleep = sleep
        self._lock = threading.Lock()
        self._completions: list[Completion] = []
        self._bytes = 0
        self._is_due = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, completion: Completion, *, more: bool) -> None:
        """Buffer the result of a task; `more` are still to run before the next `take`."""
        with self._lock:
            self._completions.append(completion)
            self._bytes += len(completion.result)
            if self._bytes > MAX_BUFFERED_BYTES:
                self._flush()
        if more and not self._is_due.is_set():
            self._is_due.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._flush_in_time, name="results", daemon=True)
                self._thread.start()

    def take(self) -> list[Completion]:
        """Remove what is buffered, for the caller to store."""
        with self._lock:
            taken, self._completions, self._bytes = self._completions, [], 0
            return taken

    def store(self, completions: list[Completion]) -> None:
        """Store these, however long Redis is away."""
        if not completions:
            return
        for pause in pauses(FIRST_PAUSE, MAX_PAUSE):
            try:
                self._store.complete_many(completions, ttl=self._ttl)
                return
            except RedisError as error:
                log.warning("%d results could not be stored, trying again: %s", len(completions), error)
                self._sleep(pause)

    def _flush_in_time(self) -> None:
        while self._is_due.wait():
            time.sleep(MAX_DELAY)
            self._is_due.clear()
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        self.store(self._completions)
        self._completions, self._bytes = [], 0
