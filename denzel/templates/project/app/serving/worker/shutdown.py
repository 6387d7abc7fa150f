"""Shutdown in time: running tasks are finished, or requeued before STOP_TIMEOUT ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from celery import bootsteps
from redis import RedisError

from app.serving.settings import Settings
from app.serving.store.connection import connect
from app.serving.store.workers import WorkerRegistry
from app.serving.worker.batching import celery_state
from app.serving.worker.batching.dispatcher import SUPERVISION_INTERVAL
from app.serving.worker.pool import loading_processes, ready_processes
from app.serving.worker.transport import Channel

log = logging.getLogger(__name__)

#: Seconds before the end of STOP_TIMEOUT at which running tasks are requeued.
REQUEUE_MARGIN = 5


class GracefulShutdown(bootsteps.StartStopStep):  # type: ignore[misc]
    """On SIGTERM, Celery's warm shutdown: running tasks are finished. Those that take too long are requeued."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        stop_worker = signal.getsignal(signal.SIGTERM)
        assert callable(stop_worker)

        def stop(signum: int, frame: FrameType | None) -> None:
            worker.sidecar.pause_watchdog()
            for act in (kill_loading, requeue_on_deadline):
                threading.Thread(target=act, args=(worker,), daemon=True).start()
            stop_worker(signum, frame)

        signal.signal(signal.SIGTERM, stop)


def kill_loading(worker: Any) -> None:
    """Kill the processes that are still loading the model, for which Celery would wait."""
    # Until this process ends: the pool replaces those that died.
    while True:
        _kill(loading_processes(worker))
        time.sleep(SUPERVISION_INTERVAL)


def requeue_on_deadline(worker: Any) -> None:
    """Requeue running tasks and exit when the time to stop is nearly over."""
    settings: Settings = worker.app.conf.denzel_settings
    time.sleep(settings.stop_timeout - REQUEUE_MARGIN)
    log.warning("STOP_TIMEOUT is nearly over; %d running tasks go back to the queue", len(celery_state.active_requests))
    requeue_all()
    _kill(ready_processes(worker))
    deregister(worker)
    os._exit(0)


def requeue_all() -> None:
    """Requeue all that this worker has taken. Where Redis is away, the worker does so after its restart."""
    try:
        Channel.dispatcher.claims.requeue_all()
    except RedisError as error:
        log.warning("running tasks could not be requeued: %s", error)


def deregister(worker: Any) -> None:
    """Stop the sidecar, then remove the worker's registration, which it renews; where Redis is away, that expires."""
    worker.sidecar.shut_down()
    settings: Settings = worker.app.conf.denzel_settings
    with suppress(RedisError):
        WorkerRegistry(connect(settings.redis_url)).deregister(worker.hostname)


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
