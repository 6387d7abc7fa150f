"""Celery bootsteps of the worker's main process: registration, the dispatcher, log rotation."""

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
from app.serving.store.claims import CLAIM_RENEW_INTERVAL, DeadLettered
from app.serving.store.connection import connect
from app.serving.store.workers import HEARTBEAT_INTERVAL, WorkerRegistry
from app.serving.worker import log_file, pool
from app.serving.worker.batching import celery_state
from app.serving.worker.batching.dispatcher import SUPERVISION_INTERVAL
from app.serving.worker.batching.events import FLUSH_INTERVAL
from app.serving.worker.transport import Channel

log = logging.getLogger(__name__)


class Registration(bootsteps.StartStopStep):  # type: ignore[misc]
    """Registers the processes that have the model, at each change and every HEARTBEAT_INTERVAL seconds."""

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        settings: Settings = worker.app.conf.denzel_settings
        self._registry = WorkerRegistry(connect(settings.redis_url))
        self._registered: tuple[set[int], set[int]] | None = None
        self._registered_at = 0.0
        self._processes: dict[int, Any] = {}

    def start(self, worker: Any) -> None:
        pool.accept_early_deaths(worker)
        self._register(worker)
        worker.timer.call_repeatedly(SUPERVISION_INTERVAL, self._register, (worker,))

    def _register(self, worker: Any) -> None:
        processes = pool.ready_processes(worker), pool.loading_processes(worker)
        now = time.monotonic()
        if processes == self._registered and now - self._registered_at < HEARTBEAT_INTERVAL:
            return
        up, loading = processes
        ended = {pid: process.exitcode for pid, process in self._processes.items() if pid not in up | loading}
        exit_codes = {pid: code for pid, code in ended.items() if code is not None}
        current = {process.pid: process for process in pool.pool_processes(worker)}
        try:
            self._registry.heartbeat(worker.hostname, up=up, loading=loading, ended=exit_codes)
            # Processes whose end could not be registered are kept for the next time.
            self._processes = current
        except RedisError as error:
            log.warning("the worker could not be registered: %s", error)
        self._registered, self._registered_at = processes, now


class DispatcherStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Lets the dispatcher take tasks for the processes that are ready, and renews its claims on them.

    A thread renews: the main one may be busy reconnecting while tasks run on.
    """

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._dispatcher = Channel.dispatcher
        self._cancelled: SimpleQueue[str] = SimpleQueue()
        self._dead_lettered: SimpleQueue[DeadLettered] = SimpleQueue()

    def start(self, worker: Any) -> None:
        self._dispatcher.start(
            worker, ready=lambda: len(pool.ready_processes(worker)), has_dropped=partial(pool.has_dropped, worker)
        )
        # At once: what this worker had before it was restarted comes first.
        self._renew()
        threading.Thread(target=self._renew_for_ever, name="claims", daemon=True).start()
        worker.timer.call_repeatedly(SUPERVISION_INTERVAL, self._act_on_renewals, (worker,))
        # Celery itself does so every 5 seconds, and would report a lost task that late.
        worker.timer.call_repeatedly(SUPERVISION_INTERVAL, pool.replace_dead_processes, (worker,))
        worker.timer.call_repeatedly(SUPERVISION_INTERVAL, self._dispatcher.supervise)
        worker.timer.call_repeatedly(FLUSH_INTERVAL, self._dispatcher.events.flush)

    def stop(self, worker: Any) -> None:
        # Running tasks are claimed until they have ended; the pool is stopped later than this.
        self._dispatcher.stop()

    terminate = stop

    def _renew_for_ever(self) -> None:
        while True:
            time.sleep(CLAIM_RENEW_INTERVAL)
            self._renew()

    def _renew(self) -> None:
        known = celery_state.tasks_of_celery() | self._dispatcher.claimed()
        try:
            renewed = self._dispatcher.claims.renew(known, self._dispatcher.session_id)
            for task_id in renewed.cancelled:
                self._cancelled.put(task_id)
            for task in renewed.dead_lettered:
                self._dead_lettered.put(task)
        except RedisError as error:
            log.warning("the claims on running tasks could not be renewed: %s", error)

    def _act_on_renewals(self, worker: Any) -> None:
        while not self._dead_lettered.empty():
            self._dispatcher.events.dead_lettered(self._dead_lettered.get())
        while not self._cancelled.empty():
            task_id = self._cancelled.get()
            task = celery_state.requests.get(task_id)
            if task is not None:
                task.terminate(worker.pool, signal="KILL")
            else:
                self._dispatcher.cancel(task_id)


class LogRotation(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts a new log file when the old one is full."""

    requires = ("celery.worker.components:Timer",)

    def start(self, worker: Any) -> None:
        path = Path(worker.app.conf.denzel_settings.worker_log)
        worker.timer.call_repeatedly(HEARTBEAT_INTERVAL, log_file.rotate, (path,))
