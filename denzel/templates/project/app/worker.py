"""What runs beside Celery's own parts in the main process of a worker: taking, reports, a stop in time, its log."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.request import Request as CeleryRequest
from redis import RedisError

from app import worker_log
from app.broker import connect
from app.claims import RENEW_EVERY, GivenUp
from app.settings import Settings
from app.task_events import TELL_EVERY
from app.transport import Channel
from app.workers import REPORT_EVERY, WorkerReports

log = logging.getLogger(__name__)

#: Seconds before the end of STOP_TIMEOUT at which running tasks go back to the queue at the latest.
HAND_BACK = 5

#: Seconds between two looks at the worker's own processes.
LOOK_EVERY = 1.0


class Report(bootsteps.StartStopStep):  # type: ignore[misc]
    """Reports which processes of the worker have the model, at each change and every REPORT_EVERY seconds."""

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        settings: Settings = worker.app.conf.denzel_settings
        self._reports = WorkerReports(connect(settings.redis_url))
        self._reported: tuple[set[int], set[int]] | None = None
        self._reported_at = 0.0
        self._seen: dict[int, Any] = {}

    def start(self, worker: Any) -> None:
        # Celery would give up when no process lives through its first second; a new one is started for each that dies.
        worker.pool.did_start_ok = lambda: True
        self._report(worker)
        worker.timer.call_repeatedly(LOOK_EVERY, self._report, (worker,))

    def _report(self, worker: Any) -> None:
        processes = ready_processes(worker), loading_processes(worker)
        now = time.monotonic()
        if processes == self._reported and now - self._reported_at < REPORT_EVERY:
            return
        up, loading = processes
        ended = {pid: process.exitcode for pid, process in self._seen.items() if pid not in up | loading}
        known = {pid: code for pid, code in ended.items() if code is not None}
        seen = {process.pid: process for process in pool_processes(worker)}
        try:
            self._reports.alive(worker.hostname, up=up, loading=loading, ended=known)
            # Of what could not be told, the next report tells.
            self._seen = seen
        except RedisError as error:
            log.warning("the worker could not report: %s", error)
        self._reported, self._reported_at = processes, now


class Taking(bootsteps.StartStopStep):  # type: ignore[misc]
    """Lets the worker take tasks for the processes that are ready, and renews its claims on them while it lives.

    Renewing has a thread of its own: the main one may be busy reconnecting while tasks run on.
    """

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._parcels = Channel.intake
        self._cancelled: SimpleQueue[str] = SimpleQueue()
        self._given_up: SimpleQueue[GivenUp] = SimpleQueue()

    def start(self, worker: Any) -> None:
        self._parcels.start(worker, lambda: len(ready_processes(worker)))
        # At once: what an earlier life of this worker had comes first.
        self._renew()
        threading.Thread(target=self._renew_for_ever, name="claims", daemon=True).start()
        worker.timer.call_repeatedly(LOOK_EVERY, self._act_on_renewals, (worker,))
        # Every 5 seconds, left alone: so late it would say of a process that its task died with it.
        worker.timer.call_repeatedly(LOOK_EVERY, maintain_pool, (worker,))
        worker.timer.call_repeatedly(LOOK_EVERY, self._parcels.look)
        worker.timer.call_repeatedly(TELL_EVERY, self._parcels.tell)

    def stop(self, worker: Any) -> None:
        # Running tasks are claimed until they have ended; the pool is stopped later than this.
        self._parcels.stop()

    terminate = stop

    def _renew_for_ever(self) -> None:
        while True:
            time.sleep(RENEW_EVERY)
            self._renew()

    def _renew(self) -> None:
        # Those that go Celery's own way, and those in parcels.
        requests = [request for request in list(state.requests.values()) if isinstance(request, CeleryRequest)]
        known = {request.message.delivery_tag: request.id for request in requests} | self._parcels.known()
        try:
            renewed = self._parcels.claims.renew(known, self._parcels.visit)
            for task_id in renewed.cancelled:
                self._cancelled.put(task_id)
            for task in renewed.given_up:
                self._given_up.put(task)
        except RedisError as error:
            log.warning("the claims on running tasks could not be renewed: %s", error)

    def _act_on_renewals(self, worker: Any) -> None:
        while not self._given_up.empty():
            self._parcels.given_up(self._given_up.get())
        while not self._cancelled.empty():
            task_id = self._cancelled.get()
            request = state.requests.get(task_id)
            if request is not None:
                request.terminate(worker.pool, signal="KILL")
            else:
                self._parcels.end_task(task_id)


class StopInTime(bootsteps.StartStopStep):  # type: ignore[misc]
    """On SIGTERM, Celery's warm shutdown: running tasks are finished. Those that take too long go back to the queue."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        stop_worker = signal.getsignal(signal.SIGTERM)
        assert callable(stop_worker)

        def stop(signum: int, frame: FrameType | None) -> None:
            worker.sidecar.look_away()
            for end in (end_loading, hand_back):
                threading.Thread(target=end, args=(worker,), daemon=True).start()
            stop_worker(signum, frame)

        signal.signal(signal.SIGTERM, stop)


def maintain_pool(worker: Any) -> None:
    """Put others in the place of processes that died, and let their tasks go."""
    pool = _pool(worker)
    if pool:
        pool.maintain_pool()


def end_loading(worker: Any) -> None:
    """End the processes that are still loading the model, for which Celery would wait."""
    # Until this process ends: the pool puts others in the place of those that died.
    while True:
        _kill(loading_processes(worker))
        time.sleep(LOOK_EVERY)


def hand_back(worker: Any) -> None:
    """When the time to stop is nearly over, put running tasks back to the queue, and end."""
    settings: Settings = worker.app.conf.denzel_settings
    time.sleep(settings.stop_timeout - HAND_BACK)
    log.warning("STOP_TIMEOUT is nearly over; %d running tasks go back to the queue", len(state.active_requests))
    give_all_back()
    _kill(ready_processes(worker))
    say_goodbye(worker)
    os._exit(0)


def give_all_back() -> None:
    """Put whatever this worker has taken back to the queue. Where Redis is away, its next life does so."""
    try:
        Channel.intake.claims.give_all_back()
    except RedisError as error:
        log.warning("running tasks could not be given back: %s", error)


def say_goodbye(worker: Any) -> None:
    """End the process beside the worker, then take back what the worker has reported, which its threads renew until the
    end. Where Redis is away, the report expires.
    """
    worker.sidecar.end()
    settings: Settings = worker.app.conf.denzel_settings
    with suppress(RedisError):
        WorkerReports(connect(settings.redis_url)).forget(worker.hostname)


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class LogRotation(bootsteps.StartStopStep):  # type: ignore[misc]
    """Begins a new log file when the old one is full."""

    requires = ("celery.worker.components:Timer",)

    def start(self, worker: Any) -> None:
        path = Path(worker.app.conf.denzel_settings.worker_log)
        worker.timer.call_repeatedly(REPORT_EVERY, worker_log.rotate, (path,))


def ready_processes(worker: Any) -> set[int]:
    """The ids of the processes that have the model: Celery knows a process once its initialisation is through."""
    pool = _pool(worker)
    return {process.pid for process in list(pool._fileno_to_inq.values())} if pool else set()


def loading_processes(worker: Any) -> set[int]:
    """The ids of the processes that have no model yet, and so no task."""
    return {process.pid for process in pool_processes(worker)} - ready_processes(worker)


def pool_processes(worker: Any) -> list[Any]:
    """The pool's processes, as billiard has them."""
    pool = _pool(worker)
    return [process for process in list(pool._pool) if process.pid is not None] if pool else []


def _pool(worker: Any) -> Any:
    """billiard's pool; None once the worker has stopped it."""
    return worker.pool and worker.pool._pool
