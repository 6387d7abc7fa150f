"""Predicting process: loads the model, then takes batches from the queue itself, until it is to stop or be replaced."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from celery import Celery
from redis import RedisError

from app.serving.backoff import pauses
from app.serving.running_task import set_reporter
from app.serving.settings import Settings
from app.serving.store.claims import Claimed, ClaimLimits, Claims
from app.serving.store.connection import connect
from app.serving.store.messages import MAX_ID, ForeignMessage, QueuedTask, parse
from app.serving.store.reports import ReportStore
from app.serving.store.tasks import Completion, TaskStore
from app.serving.store.workers import WorkerRegistry, WorkerState
from app.serving.worker.batching.events import TaskEvents
from app.serving.worker.batching.place import Place
from app.serving.worker.batching.report_writer import ReportWriter
from app.serving.worker.batching.result_buffer import FIRST_PAUSE, MAX_PAUSE, ResultBuffer
from app.serving.worker.batching.runner import BatchRunner
from app.serving.worker.batching.scoreboard import Slot
from app.serving.worker.batching.sizing import AdaptiveBatchSize
from app.serving.worker.memory_limit import memory_check
from app.serving.worker.model.predictor import Predictor

log = logging.getLogger(__name__)

#: Seconds that a process waits at the queue at once: as often it publishes that it lives.
WAIT = 1.0

#: Seconds between two checks that the worker is still there.
PARENT_CHECK_INTERVAL = 1.0

#: The option of prctl(2) with which the kernel sends a signal when the parent has ended.
_PR_SET_PDEATHSIG = 1


class TaskLoop:
    """The tasks of one process, from the queue to their results."""

    def __init__(
        self,
        claims: Claims,
        results: ResultBuffer,
        runner: BatchRunner,
        size: AdaptiveBatchSize,
        events: TaskEvents,
        *,
        slot: Slot,
        place: Place,
        processes: int,
        may_go_on: Callable[[], bool] = lambda: True,
        max_tasks: int | None = None,
    ) -> None:
        """End after `max_tasks`, or when it `may_go_on` no more, which is asked between two batches."""
        self._claims = claims
        self._results = results
        self._runner = runner
        self._size = size
        self._events = events
        self._slot = slot
        self._place = place
        self._processes = processes
        self._may_go_on = may_go_on
        self._max_tasks = max_tasks
        self._completions: list[Completion] = []
        self._waiting = 0
        self._is_interruptible = False
        self._is_stopping = False

    def stop(self) -> None:
        """End after the current batch; to be called by a signal handler. Waiting is interrupted."""
        self._is_stopping = True
        if self._is_interruptible:
            raise _Interrupted

    def run(self) -> None:
        """Take tasks and run them, until it is to stop. Redis may be away meanwhile."""
        with suppress(_Interrupted):
            while not self._is_over():
                tasks = self._take()
                if tasks:
                    self._run(tasks)
        self._store()
        self._events.flush(is_idle=True)
        self._place.release()
        # What an interrupted call has claimed.
        with suppress(RedisError):
            self._claims.requeue_all()

    def _is_over(self) -> bool:
        has_run = self._slot.ended > 0
        return self._is_stopping or (has_run and not self._may_go_on()) or self._tasks_left() <= 0

    def _tasks_left(self) -> int:
        return sys.maxsize if self._max_tasks is None else self._max_tasks - self._slot.ended

    def _store(self) -> None:
        """Store the results of the last batch, however long Redis is away."""
        if self._completions:
            self._slot.stand_by()
        self._results.store(self._completions)
        self._completions = []

    def _run(self, tasks: list[QueuedTask]) -> None:
        if self._waiting or not self._size.is_cheap:
            # The others can take tasks meanwhile.
            self._place.release()
        began = time.perf_counter()
        ended = self._runner.run(tasks)
        self._size.observe(len(ended), time.perf_counter() - began)
        self._completions = self._results.take()
        self._events.ended(ended)
        if len(ended) < len(tasks):
            # The worker has cut the rest off; what it took for started stays claimed otherwise.
            self._begin_epoch()

    def _take(self) -> list[QueuedTask]:
        """Store the last results, and take the next tasks in this process' turn. Empty when none came in time."""
        if not self._place.try_acquire():
            self._store()
            self._events.flush(is_idle=True)
            self._slot.stand_by()
            with self._interruptible():
                self._place.acquire()
        wait = 0.0 if self._completions or self._waiting else WAIT
        if wait:
            self._events.flush()
        self._slot.wait()
        try:
            with self._interruptible(wait > 0):
                taken = self._claims.take(
                    limit=min(self._size.limit(), self._tasks_left()),
                    sharers=self._processes if self._size.should_split else 0,
                    wait=wait,
                    completions=self._completions,
                )
            self._completions = []
            self._waiting = taken.waiting
            tasks = self._read(taken.claimed)
        except RedisError as error:
            self._recover(error)
            return []
        self._events.revoked(taken.cancelled)
        if not wait:
            # The last results are stored now. Under load, a process may never wait.
            self._events.flush()
        return tasks

    def _read(self, claimed: list[Claimed]) -> list[QueuedTask]:
        """The tasks of claimed messages, published as those that this process has. Reject those that are none."""
        if not claimed:
            return []
        # First: a message may kill the process that reads it.
        self._slot.begin([one.task_id for one in claimed if len(one.task_id) <= MAX_ID])
        tasks = []
        for one in claimed:
            try:
                tasks.append(parse(one.message, one.since, task_id=one.task_id, delivery=one.deliveries))
            except ForeignMessage as reason:
                self._claims.reject(one.task_id, str(reason))
        if 0 < len(tasks) < len(claimed):
            self._slot.begin([task.task_id for task in tasks])
        return tasks

    @contextmanager
    def _interruptible(self, is_waiting: bool = True) -> Iterator[None]:
        """Let `stop` interrupt the process if it waits."""
        self._is_interruptible = is_waiting
        try:
            if is_waiting and self._is_stopping:
                raise _Interrupted
            yield
        finally:
            self._is_interruptible = False

    def _recover(self, error: RedisError) -> None:
        """Wait until Redis is there again, and settle everything by then: the answer to a claim may have been lost."""
        log.warning("Redis does not answer, trying again: %s", error)
        self._place.release()
        self._waiting = 0
        self._begin_epoch()
        for pause in pauses(FIRST_PAUSE, MAX_PAUSE):
            self._slot.wait()
            with self._interruptible():
                try:
                    self._claims.requeue_all()
                    return
                except RedisError:
                    time.sleep(pause)

    def _begin_epoch(self) -> None:
        """Let the worker requeue all that this process has claimed and not run."""
        # First: of a new epoch, the worker would requeue what has been run, and is not stored yet.
        self._store()
        self._claims.epoch += 1
        self._slot.begin_epoch(self._claims.epoch)


class _Interrupted(Exception):
    """The process is to stop, and was waiting."""


def run_process(
    celery_app: Celery,
    worker: str,
    predictor: Predictor,
    *,
    owner: str,
    slot: Slot,
    place: Place,
    processes: int,
    parent: int,
) -> None:
    """Run one of so many `processes`, forked from `parent`, until SIGTERM, or until it is to be replaced."""
    settings: Settings = celery_app.conf.denzel_settings
    _reset_signals()
    exit_with_parent(parent)
    load_model(predictor, WorkerRegistry(connect(settings.redis_url)), worker)
    slot.wait()
    claims = Claims(
        connect(settings.redis_url),
        ClaimLimits(deliveries=settings.task_max_deliveries, ttl=settings.result_lifetime),
        owner,
    )
    results = ResultBuffer(TaskStore(connect(settings.redis_url)), ttl=settings.result_lifetime)
    reports = ReportWriter(ReportStore(connect(settings.redis_url)), lambda: claims.holder)
    set_reporter(reports)
    loop = TaskLoop(
        claims,
        results,
        BatchRunner(predictor, results, slot, flush_reports=reports.flush),
        AdaptiveBatchSize(
            batch_size=settings.batch_size,
            deliveries=settings.task_max_deliveries,
            predicts_batches=predictor.predicts_batches,
        ),
        TaskEvents(celery_app, worker),
        slot=slot,
        place=place,
        processes=processes,
        may_go_on=memory_check(settings.worker_max_mb),
        max_tasks=settings.worker_max_tasks,
    )

    def stop(signum: int, frame: FrameType | None) -> None:
        loop.stop()

    signal.signal(signal.SIGTERM, stop)
    loop.run()


def load_model(predictor: Predictor, registry: WorkerRegistry, worker: str) -> None:
    """Load the model, unless it came with the fork; register the state of this process."""

    def register(state: WorkerState, cause: str = "", hint: str = "") -> None:
        try:
            registry.report_process(worker, os.getpid(), state, cause, hint=hint, warnings=predictor.warnings)
        except RedisError as error:
            log.warning("%s could not be registered: %s", state.value, error)

    if not predictor.loaded:
        predictor.load(lambda cause, hint: register(WorkerState.ERROR, cause, hint))
    register(WorkerState.UP)


def _reset_signals() -> None:
    """Leave the worker's handlers to the worker: a terminal's signals come to the whole group."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def exit_with_parent(parent: int) -> None:
    """Exit when the `parent` is gone, or was already: tasks run again elsewhere, and the memory is needed there."""
    if sys.platform == "linux":
        # At once, and however deep in native code, where no thread of Python runs.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_INTERVAL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
