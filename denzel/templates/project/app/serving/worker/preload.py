"""Preload, for MODEL_SHARING=fork: the main process loads the model, and the pool processes are forked from it."""

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
from app.serving.store.claims import CLAIM_RENEW_INTERVAL
from app.serving.store.connection import connect
from app.serving.store.workers import WorkerRegistry, WorkerState
from app.serving.worker.model.openmp import one_thread
from app.serving.worker.model.predictor import Predictor
from app.serving.worker.shutdown import deregister, requeue_all
from app.serving.worker.transport import Channel

log = logging.getLogger(__name__)


class Preload(bootsteps.Step):  # type: ignore[misc]
    """Prepares the main process for its first fork: all pool processes share the memory that it has by then."""

    requires = ("celery.worker.components:Timer",)

    #: The one whose model is shared; set by celery_app.py.
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
        # A registration from before a restart, which Redis was not there to remove, must not stand for this process.
        try:
            WorkerRegistry(connect(settings.redis_url)).deregister(self._worker.hostname)
        except RedisError as error:
            log.warning("the worker could not be registered: %s", error)
        if settings.shares_model:
            preload_model(self._worker, self.predictor)
        # The collector writes to the objects that it marks, and a page that is written to is shared no more.
        gc.collect()
        gc.freeze()


def preload_model(worker: Any, predictor: Predictor) -> None:
    """Load the model in this process, however long that takes. SIGTERM ends the worker meanwhile."""
    settings: Settings = worker.app.conf.denzel_settings
    registry = WorkerRegistry(connect(settings.redis_url))
    pid = os.getpid()

    def register(act: Callable[[], None]) -> None:
        try:
            act()
        except RedisError as error:
            log.warning("the worker could not be registered: %s", error)

    def renew() -> None:
        registry.heartbeat(worker.hostname, up=(), loading={pid})
        registry.renew_preload(worker.hostname)
        # What this worker had before it was restarted is requeued now, and not when the model is loaded.
        Channel.dispatcher.claims.renew({})

    def report_failure(cause: str) -> None:
        register(lambda: registry.report_process(worker.hostname, pid, WorkerState.ERROR, cause))

    stopping = threading.Event()

    def stop() -> None:
        stopping.set()
        requeue_all()
        deregister(worker)
        register(lambda: registry.end_preload(worker.hostname))
        os._exit(0)

    def keep_alive() -> None:
        worker.sidecar.keep_running()
        if not stopping.is_set():
            register(renew)

    worker.sidecar.set_loading(True)
    # First of all, so that a load_model that ends this process leaves a trace.
    register(lambda: registry.begin_preload(worker.hostname, pid))
    with _on_stop_signal(stop), _repeatedly(keep_alive, every=CLAIM_RENEW_INTERVAL), one_thread():
        predictor.load(report_failure)
    worker.sidecar.set_loading(False)
    register(lambda: registry.remove_process(worker.hostname, pid))
    if uses_cuda():
        log.warning(
            "load_model has initialised CUDA, which no forked process can use: every prediction on the GPU will fail. "
            "Set MODEL_SHARING=process in .env, then: denzel restart"
        )


def uses_cuda(files: Path = Path("/proc/self/fd")) -> bool:
    """True when CUDA is initialised in this process, by what PyTorch reports or by its open `files`."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)
    if is_initialized is not None and is_initialized():
        return True
    with suppress(OSError):
        # Whatever uses the driver, TensorFlow or another, holds its devices open.
        return any(_target(path).startswith("/dev/nvidia") for path in files.iterdir())
    return False


def _target(path: Path) -> str:
    with suppress(OSError):
        return str(path.readlink())
    return ""


@contextmanager
def _repeatedly(act: Callable[[], None], *, every: float) -> Iterator[None]:
    """Call `act` in a thread, at once and then every so many seconds, until the block ends."""
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
def _on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` in a thread on a signal to stop: the main thread may be deep in code that is not Python."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def watch() -> None:
        while number := os.read(read, 1):
            if number[0] in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                stop()

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)
        thread.join()
        os.close(read)
