"""Start of a pool process: it loads the model, and exits with the worker."""

from __future__ import annotations

import logging
import os
import threading
import time

from redis import RedisError

from app.serving.store.workers import WorkerRegistry, WorkerState
from app.serving.worker.model.predictor import Predictor

log = logging.getLogger(__name__)

#: Seconds that a process waits before it loads the model, when one before it died of that.
PAUSE_AFTER_DEATH = 5.0

#: Seconds between two checks that the worker is still there.
PARENT_CHECK_INTERVAL = 1.0


def prepare_model(predictor: Predictor, registry: WorkerRegistry, worker: str) -> None:
    """Load the model before the first task, unless it came with the fork; register the state of this process."""

    def register(state: WorkerState, cause: str = "") -> None:
        try:
            registry.report_process(worker, os.getpid(), state, cause)
        except RedisError as error:
            log.warning("%s could not be registered: %s", state.value, error)

    if not predictor.loaded:
        if _died_before(registry, worker):
            time.sleep(PAUSE_AFTER_DEATH)
        predictor.load(lambda cause: register(WorkerState.ERROR, cause))
    register(WorkerState.UP)


def _died_before(registry: WorkerRegistry, worker: str) -> bool:
    try:
        return registry.died(worker)
    except RedisError:
        return False


def exit_with_worker() -> None:
    """Exit when the worker is gone: the task runs again elsewhere, and the memory is needed there."""
    worker = os.getppid()

    def watch() -> None:
        while os.getppid() == worker:
            time.sleep(PARENT_CHECK_INTERVAL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
