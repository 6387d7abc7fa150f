"""Writer of reports: progress and output of the tasks of one process go to Redis by a thread, few writes for many."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence

from redis import OutOfMemoryError, RedisError

from app.serving.backoff import pauses
from app.serving.store.reports import MAX_OUTPUT_BYTES, MAX_OUTPUTS, Report, ReportStore
from app.serving.worker.batching.result_buffer import FIRST_PAUSE, MAX_PAUSE

log = logging.getLogger(__name__)

#: Seconds between two writes: of output, which readers follow, and of progress alone.
OUTPUT_INTERVAL = 0.02
PROGRESS_INTERVAL = 0.1


class _News:
    """The unwritten reports of one task, and how many outputs were passed on before these."""

    __slots__ = ("before", "length", "outputs", "progress")

    def __init__(self, before: int) -> None:
        self.before = before
        self.progress = ""
        self.outputs: list[str] = []
        self.length = 0

    def add(self, text: str) -> None:
        """Add an output; beyond what is kept of a task, the oldest go."""
        self.outputs.append(text)
        self.length += len(text)
        while len(self.outputs) > MAX_OUTPUTS or self.length > MAX_OUTPUT_BYTES:
            self.length -= len(self.outputs.pop(0))
            self.before += 1

    def followed_by(self, newer: _News) -> _News:
        """These reports and newer ones as one."""
        if newer.before > self.before + len(self.outputs):
            # The newer ones alone are more than is kept.
            self.outputs, self.length, self.before = [], 0, newer.before
        self.progress = newer.progress or self.progress
        for text in newer.outputs:
            self.add(text)
        return self


class ReportWriter:
    """The reports of one process. Whoever reports does not wait for Redis; `flush` does, between two tasks."""

    def __init__(
        self, store: ReportStore, holder: Callable[[], str], *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """`holder` gives the owner and epoch of the claims. Make it in the process that uses it: its thread survives no
        fork.
        """
        self._store = store
        self._holder = holder
        self._sleep = sleep
        # Guards what is below; `_writing` is held during a write, so that reports keep their order.
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._news: dict[str, _News] = {}
        self._counts: dict[str, int] = {}
        self._has_reports = False
        self._is_due = threading.Event()
        self._output_is_due = threading.Event()
        self._thread: threading.Thread | None = None

    def progress(self, task_ids: Sequence[str], fraction: float | None, message: str) -> None:
        """Report the progress of tasks; only the latest is written."""
        text = json.dumps({"fraction": fraction, "message": message}, ensure_ascii=False)
        # Redis has UTF-8, where a lone surrogate is nothing.
        text = text.encode("utf-8", "replace").decode()
        with self._lock:
            for task_id in task_ids:
                self._news_of(task_id).progress = text
        self._wake()

    def output(self, task_ids: Sequence[str], text: str) -> None:
        """Add a part to the output of tasks, as JSON."""
        with self._lock:
            for task_id in task_ids:
                self._news_of(task_id).add(text)
                self._counts[task_id] = self._counts.get(task_id, 0) + 1
        self._output_is_due.set()
        self._wake()

    def flush(self) -> None:
        """Write all that was reported, however long Redis is away, and forget the tasks: they have ended."""
        if not self._has_reports:
            return
        for pause in pauses(FIRST_PAUSE, MAX_PAUSE):
            if self._write():
                break
            self._sleep(pause)
        with self._lock:
            self._counts.clear()
            self._has_reports = False

    def _news_of(self, task_id: str) -> _News:
        news = self._news.get(task_id)
        if news is None:
            news = self._news[task_id] = _News(self._counts.get(task_id, 0))
        return news

    def _wake(self) -> None:
        self._has_reports = True
        if self._is_due.is_set():
            return
        self._is_due.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_for_ever, name="reports", daemon=True)
            self._thread.start()

    def _write_for_ever(self) -> None:
        failures = pauses(FIRST_PAUSE, MAX_PAUSE)
        while self._is_due.wait():
            self._is_due.clear()
            self._output_is_due.clear()
            if self._write():
                failures = pauses(FIRST_PAUSE, MAX_PAUSE)
                time.sleep(OUTPUT_INTERVAL)
                self._output_is_due.wait(PROGRESS_INTERVAL - OUTPUT_INTERVAL)
            else:
                self._is_due.set()
                time.sleep(next(failures))

    def _write(self) -> bool:
        """Write what there is; False when Redis is away, and all is kept."""
        with self._writing:
            with self._lock:
                taken, self._news = self._news, {}
            if not taken:
                return True
            reports = [Report(task_id, one.progress, one.before, one.outputs) for task_id, one in taken.items()]
            try:
                self._store.write(self._holder(), reports)
            except OutOfMemoryError as error:
                log.warning("progress and output are dropped: %s", error)
            except RedisError as error:
                log.warning("progress and output could not be stored, trying again: %s", error)
                self._put_back(taken)
                return False
            return True

    def _put_back(self, taken: dict[str, _News]) -> None:
        with self._lock:
            for task_id, older in taken.items():
                newer = self._news.get(task_id)
                self._news[task_id] = older if newer is None else older.followed_by(newer)
