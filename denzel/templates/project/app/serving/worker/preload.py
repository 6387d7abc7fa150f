"""MODEL_SHARING=fork: the worker's main process loads the model, and the processes that predict are forked from it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from celery import bootsteps, signals
from redis import RedisError

from app.serving.settings import Settings
from app.serving.store.claims import RENEW_EVERY
from app.serving.store.connection import connect
from app.serving.store.workers import WorkerRegistry, WorkerState
from app.serving.worker.model.openmp import one_thread
from app.serving.worker.model.predictor import Predictor
from app.serving.worker.shutdown import deregister, requeue_all
from app.serving.worker.transport import Channel

log = logging.getLogger(__name__)


class Preload(bootsteps.Step):  # type: ignore[misc]
    """Readies the main process for its first fork: what it has by then is shared with every process that predicts."""

    requires = ("celery.worker.components:Timer",)

    #: Whose model is shared; set by app/tasks.py.
    predictor: Predictor

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._worker = worker
        self._is_ready = False
        signals.worker_before_create_process.connect(self._make_ready, weak=False)

    def _make_ready(self, **_: Any) -> None:
        if self._is_ready:
            return
        self._is_ready = True
        settings: Settings = self._worker.app.conf.denzel_settings
        # What an earlier life has said, and could not take back while Redis was away, must not speak for this one.
        try:
            WorkerRegistry(connect(settings.redis_url)).deregister(self._worker.hostname)
        except RedisError as error:
            log.warning("the worker could not report: %s", error)
        if settings.shares_model:
            preload_model(self._worker, self.predictor)
        # What the collector marks it writes to, and a page that is written to is shared no more.
        gc.collect()
        gc.freeze()


def preload_model(worker: Any, predictor: Predictor) -> None:
    """Load the model in this process, however long that takes. SIGTERM ends the worker meanwhile."""
    settings: Settings = worker.app.conf.denzel_settings
    reports = WorkerRegistry(connect(settings.redis_url))
    pid = os.getpid()

    def say(report: Callable[[], None]) -> None:
        try:
            report()
        except RedisError as error:
            log.warning("the worker could not report: %s", error)

    def renew() -> None:
        reports.heartbeat(worker.hostname, up=(), loading={pid})
        reports.renew_preload(worker.hostname)
        # What an earlier life of this worker had is given back now, and not when the model is there.
        Channel.dispatcher.claims.renew({})

    def failed(cause: str) -> None:
        say(lambda: reports.report_process(worker.hostname, pid, WorkerState.ERROR, cause))

    stops = threading.Event()

    def stop() -> None:
        stops.set()
        requeue_all()
        deregister(worker)
        say(lambda: reports.end_preload(worker.hostname))
        os._exit(0)

    def keep() -> None:
        worker.sidecar.keep_running()
        if not stops.is_set():
            say(renew)

    worker.sidecar.loading(True)
    # First of all: a load_model that ends this process can be told by that.
    say(lambda: reports.begin_preload(worker.hostname, pid))
    with _when_told_to_end(stop), _again_and_again(keep, every=RENEW_EVERY), one_thread():
        predictor.load(failed)
    worker.sidecar.loading(False)
    say(lambda: reports.remove_process(worker.hostname, pid))
    if uses_cuda():
        log.warning(
            "load_model has initialised CUDA, which no forked process can use: every prediction on the GPU will fail. "
            "Set MODEL_SHARING=process in .env, then: denzel restart"
        )


def uses_cuda(files: Path = Path("/proc/self/fd")) -> bool:
    """Whether CUDA is initialised in this process, by what PyTorch says and by its open `files`."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)
    if is_initialized is not None and is_initialized():
        return True
    with suppress(OSError):
        # Whoever uses the driver, TensorFlow or another, holds its devices open.
        return any(_target(path).startswith("/dev/nvidia") for path in files.iterdir())
    return False


def _target(path: Path) -> str:
    with suppress(OSError):
        return str(path.readlink())
    return ""


@contextmanager
def _again_and_again(act: Callable[[], None], *, every: float) -> Iterator[None]:
    """While this lasts, a thread acts, at once and every so many seconds."""
    over = threading.Event()

    def run() -> None:
        while True:
            act()
            if over.wait(every):
                return

    thread = threading.Thread(target=run, name="loading", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _when_told_to_end(end: Callable[[], None]) -> Iterator[None]:
    """While this lasts, a thread ends the worker on a signal: the main one may be deep in code that is not Python."""
    told, telling = os.pipe()
    os.set_blocking(telling, False)
    before = signal.set_wakeup_fd(telling, warn_on_full_buffer=False)

    def watch() -> None:
        while number := os.read(told, 1):
            if number[0] in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                end()

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(telling)
        thread.join()
        os.close(told)
