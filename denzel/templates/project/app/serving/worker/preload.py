"""Preload, for MODEL_SHARING=fork: the main process loads the model, and the predicting ones are forked from it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from redis import RedisError

from app.serving.heartbeat import LOAD_ENDED, Heartbeat
from app.serving.store.workers import WorkerRegistry, WorkerState, how_load_model_ended
from app.serving.worker.model.native_threads import one_thread
from app.serving.worker.model.predictor import Predictor

log = logging.getLogger(__name__)

#: Names of native threads that no prediction needs: jemalloc, which comes with pyarrow and so with pandas, returns
#: memory with it, and starts it anew after a fork (pthread_atfork in its src/jemalloc.c, 5.3).
HARMLESS = frozenset(("jemalloc_bg_thd",))

_USE_PROCESSES = "Set MODEL_SHARING=process in .env, then: denzel restart"


def preload_model(
    predictor: Predictor,
    registry: WorkerRegistry,
    worker: str,
    heartbeat: Heartbeat,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Load the model in this process, however long that takes. SIGTERM ends it meanwhile, whatever it does.

    A model that no forked process could use is refused: the worker is then ERROR until it is restarted.
    """

    def register(act: Callable[[], None]) -> None:
        try:
            act()
        except RedisError as error:
            log.warning("the worker could not be registered: %s", error)

    def report(cause: str, hint: str = _USE_PROCESSES) -> None:
        register(lambda: registry.report_process(worker, os.getpid(), WorkerState.ERROR, cause, hint=hint))

    heartbeat.loading()
    ended = environ.get(LOAD_ENDED)
    register(lambda: registry.begin_preload(worker, os.getpid(), how_load_model_ended(int(ended)) if ended else ""))
    with _ended_by_sigterm():
        with one_thread():
            before = _threads()
            predictor.load(report)
            started = len(_threads() - before)
        if started:
            threads = "a thread" if started == 1 else f"{started} threads"
            cause = (
                f"load_model has started {threads}, which no forked process would have: predictions would hang."
                f" {_USE_PROCESSES}"
            )
            log.error(cause)
            report(cause)
            threading.Event().wait()
    heartbeat.loaded()
    with suppress(RedisError):
        registry.remove_process(worker, os.getpid())
    if uses_cuda():
        log.warning(
            "load_model has initialised CUDA, which no forked process can use: every prediction on the GPU will fail. "
            + _USE_PROCESSES
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


def _threads(tasks: Path = Path("/proc/self/task")) -> set[str]:
    """The ids of this process' threads that predictions may need; none where there is no /proc."""
    # Progress bars, with which many libraries load a model, have a thread that redraws them.
    harmless = {str(one.native_id) for one in threading.enumerate() if type(one).__module__.startswith("tqdm")}
    with suppress(OSError):
        return {path.name for path in tasks.iterdir() if _name(path) not in HARMLESS} - harmless
    return set()


def _name(task: Path) -> str:
    with suppress(OSError):
        return (task / "comm").read_text().strip()
    return ""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process at once: it may be deep in code that is not Python, and has no task."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
