"""Start of a pool process: the model is loaded in it, and it ends when it is told to, or with the worker."""

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


def load_model(predictor: Predictor, reports: WorkerRegistry, worker: str) -> None:
    """Load the model before this process takes its first task, unless it came with the fork; report the state."""

    def report(state: WorkerState, cause: str = "") -> None:
        try:
            reports.report_process(worker, os.getpid(), state, cause)
        except RedisError as error:
            log.warning("%s could not be reported: %s", state.value, error)

    if not predictor.loaded:
        if _died_before(reports, worker):
            time.sleep(PAUSE_AFTER_DEATH)
        predictor.load(lambda cause: report(WorkerState.ERROR, cause))
    report(WorkerState.UP)


def _died_before(reports: WorkerRegistry, worker: str) -> bool:
    try:
        return reports.died(worker)
    except RedisError:
        return False


def end_with_worker() -> None:
    """End this process when the worker is gone: its task runs again elsewhere, and the memory is needed there."""
    worker = os.getppid()

    def watch() -> None:
        while os.getppid() == worker:
            time.sleep(PARENT_CHECK_INTERVAL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
