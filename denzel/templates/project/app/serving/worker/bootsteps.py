"""What runs beside Celery's own parts in the main process of a worker: taking, reports, a stop in time, its log."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from celery import bootsteps
from redis import RedisError

from app.serving.settings import Settings
from app.serving.store.claims import RENEW_EVERY, DeadLettered
from app.serving.store.connection import connect
from app.serving.store.workers import HEARTBEAT_INTERVAL, WorkerRegistry
from app.serving.worker import log_file
from app.serving.worker.batching import celery_state
from app.serving.worker.batching.dispatcher import SUPERVISION_INTERVAL
from app.serving.worker.batching.events import FLUSH_INTERVAL
from app.serving.worker.pool import (
    accept_early_deaths,
    has_dropped,
    loading_processes,
    maintain_pool,
    pool_processes,
    ready_processes,
)
from app.serving.worker.transport import Channel

log = logging.getLogger(__name__)


class Registration(bootsteps.StartStopStep):  # type: ignore[misc]
    """Reports which processes of the worker have the model, at each change and every REPORT_EVERY seconds."""

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        settings: Settings = worker.app.conf.denzel_settings
        self._reports = WorkerRegistry(connect(settings.redis_url))
        self._reported: tuple[set[int], set[int]] | None = None
        self._reported_at = 0.0
        self._seen: dict[int, Any] = {}

    def start(self, worker: Any) -> None:
        accept_early_deaths(worker)
        self._report(worker)
        worker.timer.call_repeatedly(SUPERVISION_INTERVAL, self._report, (worker,))

    def _report(self, worker: Any) -> None:
        processes = ready_processes(worker), loading_processes(worker)
        now = time.monotonic()
        if processes == self._reported and now - self._reported_at < HEARTBEAT_INTERVAL:
            return
        up, loading = processes
        ended = {pid: process.exitcode for pid, process in self._seen.items() if pid not in up | loading}
        known = {pid: code for pid, code in ended.items() if code is not None}
        seen = {process.pid: process for process in pool_processes(worker)}
        try:
            self._reports.heartbeat(worker.hostname, up=up, loading=loading, ended=known)
            # Of what could not be told, the next report tells.
            self._seen = seen
        except RedisError as error:
            log.warning("the worker could not report: %s", error)
        self._reported, self._reported_at = processes, now


class Consumer(bootsteps.StartStopStep):  # type: ignore[misc]
    """Lets the worker take tasks for the processes that are ready, and renews its claims on them while it lives.

    Renewing has a thread of its own: the main one may be busy reconnecting while tasks run on.
    """

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._dispatcher = Channel.dispatcher
        self._cancelled: SimpleQueue[str] = SimpleQueue()
        self._given_up: SimpleQueue[DeadLettered] = SimpleQueue()

    def start(self, worker: Any) -> None:
        self._dispatcher.start(
            worker, ready=lambda: len(ready_processes(worker)), has_dropped=partial(has_dropped, worker)
        )
        # At once: what an earlier life of this worker had comes first.
        self._renew()
        threading.Thread(target=self._renew_for_ever, name="claims", daemon=True).start()
        worker.timer.call_repeatedly(SUPERVISION_INTERVAL, self._act_on_renewals, (worker,))
        # Every 5 seconds, left alone: so late it would say of a process that its task died with it.
        worker.timer.call_repeatedly(SUPERVISION_INTERVAL, maintain_pool, (worker,))
        worker.timer.call_repeatedly(SUPERVISION_INTERVAL, self._dispatcher.supervise)
        worker.timer.call_repeatedly(FLUSH_INTERVAL, self._dispatcher.flush_events)

    def stop(self, worker: Any) -> None:
        # Running tasks are claimed until they have ended; the pool is stopped later than this.
        self._dispatcher.stop()

    terminate = stop

    def _renew_for_ever(self) -> None:
        while True:
            time.sleep(RENEW_EVERY)
            self._renew()

    def _renew(self) -> None:
        known = celery_state.unfinished() | self._dispatcher.claimed()
        try:
            renewed = self._dispatcher.claims.renew(known, self._dispatcher.session_id)
            for task_id in renewed.cancelled:
                self._cancelled.put(task_id)
            for task in renewed.dead_lettered:
                self._given_up.put(task)
        except RedisError as error:
            log.warning("the claims on running tasks could not be renewed: %s", error)

    def _act_on_renewals(self, worker: Any) -> None:
        while not self._given_up.empty():
            self._dispatcher.given_up(self._given_up.get())
        while not self._cancelled.empty():
            task_id = self._cancelled.get()
            request = celery_state.find(task_id)
            if request is not None:
                request.terminate(worker.pool, signal="KILL")
            else:
                self._dispatcher.cancel(task_id)


class LogRotation(bootsteps.StartStopStep):  # type: ignore[misc]
    """Begins a new log file when the old one is full."""

    requires = ("celery.worker.components:Timer",)

    def start(self, worker: Any) -> None:
        path = Path(worker.app.conf.denzel_settings.worker_log)
        worker.timer.call_repeatedly(HEARTBEAT_INTERVAL, log_file.rotate, (path,))
