"""The worker as a Celery node: remote control, events and life cycle are Celery's, tasks go past it.

The only module that uses what Celery does not document (`celery.worker.state`, WorkController.info), as read in 5.7.0.
A pool class, bootsteps and remote control commands are its documented ways in.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty
from types import FrameType
from typing import Any

from celery import Celery, bootsteps
from celery.apps.worker import Worker as CeleryWorker
from celery.concurrency.base import BasePool
from celery.worker import state as celery_state
from celery.worker.control import control_command, inspect_command
from redis import Redis, RedisError

from app.serving.heartbeat import Heartbeat
from app.serving.settings import Settings
from app.serving.store import keys
from app.serving.store.claims import ClaimLimits, Claims, DeadLettered, HostClaims
from app.serving.store.connection import connect
from app.serving.store.messages import TASK_NAME, ForeignMessage, parse
from app.serving.store.tasks import PENDING, TaskStore
from app.serving.store.workers import HEARTBEAT_INTERVAL, WorkerRegistry
from app.serving.worker import log_file
from app.serving.worker.batching.sizing import MAX_IN_TURN
from app.serving.worker.member import Running
from app.serving.worker.model.predictor import Predictor
from app.serving.worker.preload import preload_model
from app.serving.worker.process import run_process
from app.serving.worker.processes import Processes
from app.serving.worker.settlements import Settlements

log = logging.getLogger(__name__)

#: Seconds before the end of STOP_TIMEOUT at which running tasks are requeued.
REQUEUE_MARGIN = 5

#: Seconds between two reports to Celery, and that a task must have run before the dashboard shows it as started.
REPORT_INTERVAL = 1.0
SHOW_AS_STARTED_AFTER = 0.5


class ProcessPool(BasePool):  # type: ignore[misc]
    """Celery's pool of this worker: processes that take tasks themselves, so that Celery has none for them."""

    #: The heartbeat of this program, set by worker/__main__.py.
    heartbeat = Heartbeat(None)

    def __init__(self, limit: int, *, app: Celery, initargs: tuple[Any, str], **options: Any) -> None:
        super().__init__(limit, app=app, **options)
        settings: Settings = app.conf.denzel_settings
        #: The worker's connections to Redis.
        self.redis = redis = connect(settings.redis_url)
        limits = ClaimLimits(deliveries=settings.task_max_deliveries, ttl=settings.result_lifetime)
        claims_of = partial(Claims, redis, limits)
        self._worker = initargs[1]
        self._settings = settings
        self._predictor = Predictor()
        self._registry = WorkerRegistry(redis)
        self.processes = Processes(
            limit,
            partial(run_process, app, self._worker, self._predictor, processes=limit, parent=os.getpid()),
            worker=self._worker,
            claims=HostClaims(redis, limits),
            settlements=Settlements(
                claims_of, TaskStore(redis), ttl=settings.result_lifetime, time_limit=settings.task_time_limit
            ),
            registry=self._registry,
            heartbeat=self.heartbeat,
            max_tasks=max(settings.batch_size, MAX_IN_TURN),
            time_limit=settings.task_time_limit,
        )

    def on_start(self) -> None:
        """Start the processes; with MODEL_SHARING=fork, load the model first."""
        if not self._settings.shares_model:
            # A report from before a restart, which Redis was not there to remove, must not stand for this worker.
            self._deregister()
        else:
            preload_model(self._predictor, self._registry, self._worker, self.heartbeat)
        self._stop_on_sigterm(signal.getsignal(signal.SIGTERM))
        # On which Celery would execute its program anew, without a part in the supervisor's pipe.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.processes.start()

    def on_stop(self) -> None:
        """Wait until running tasks have ended, or were requeued as STOP_TIMEOUT is nearly over."""
        self._begin_stop()
        self.processes.join()
        self._deregister()

    def on_terminate(self) -> None:
        """Requeue running tasks, and end at once."""
        self.processes.kill()
        self._deregister()

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Kill a process; what it runs is delivered again."""
        if pid in self.processes.pids:
            os.kill(pid, signal or 9)

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "processes": self.processes.pids}

    def _stop_on_sigterm(self, stop_celery: Any) -> None:
        """Begin to stop at once: Celery may be busy reconnecting."""

        def stop(signum: int, frame: FrameType | None) -> None:
            self._begin_stop()
            stop_celery(signum, frame)

        if callable(stop_celery):
            signal.signal(signal.SIGTERM, stop)

    def _begin_stop(self) -> None:
        self.processes.stop()
        threading.Thread(target=self._requeue_on_deadline, daemon=True).start()

    def _requeue_on_deadline(self) -> None:
        time.sleep(self._settings.stop_timeout - REQUEUE_MARGIN)
        running = len(self.processes.running())
        log.warning("STOP_TIMEOUT is nearly over; %d running tasks go back to the queue", running)
        self.processes.kill()
        self._deregister()
        os._exit(0)

    def _deregister(self) -> None:
        """Remove the worker's report; where Redis is away, it expires."""
        with suppress(RedisError):
            self._registry.deregister(self._worker)


class TaskView:
    """A running task as Celery's remote control and heartbeat use it: a stand-in for Celery's own Request."""

    name = TASK_NAME

    def __init__(self, running: Running, redis: Redis) -> None:
        self.id = running.task_id
        self.args_repr, self.since = _arguments(redis, running.task_id)
        self.time_start = time.time() - running.seconds
        self.pid = running.pid

    def info(self, safe: bool = False) -> dict[str, Any]:
        """The task as `celery inspect active` shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "args": self.args_repr,
            "kwargs": "{}",
            "type": self.name,
            "time_start": self.time_start,
            "acknowledged": False,
            "worker_pid": self.pid,
        }

    def fields(self) -> dict[str, Any]:
        """The fields of an event that describe the task."""
        return {"uuid": self.id, "name": self.name, "args": self.args_repr, "kwargs": "{}", "received": self.since}


class Report(bootsteps.StartStopStep):  # type: ignore[misc]
    """Reports to Celery what the processes do: for its heartbeat, its remote control, and the dashboard."""

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        settings: Settings = worker.app.conf.denzel_settings
        self._log_file = Path(settings.worker_log)
        self._views: dict[str, TaskView] = {}

    def start(self, worker: Any) -> None:
        worker.timer.call_repeatedly(REPORT_INTERVAL, self._report, (worker,))
        worker.timer.call_repeatedly(HEARTBEAT_INTERVAL, log_file.rotate, (self._log_file,))

    def _report(self, worker: Any) -> None:
        processes: Processes = worker.pool.processes
        self._count(processes.ended)
        running = {one.task_id: one for one in processes.running() if one.seconds > SHOW_AS_STARTED_AFTER}
        for task_id in set(self._views) - set(running):
            celery_state.active_requests.discard(self._views.pop(task_id))
        for task_id in set(running) - set(self._views):
            with suppress(RedisError):
                view = self._views[task_id] = TaskView(running[task_id], worker.pool.redis)
                celery_state.active_requests.add(view)
                self._send(worker, "task-started", **view.fields())
        with suppress(Empty):
            while True:
                event = processes.events.get_nowait()
                if isinstance(event, DeadLettered):
                    failed = {"exception": event.reason, "traceback": ""}
                    self._send(worker, "task-failed", uuid=event.task_id, name=TASK_NAME, **failed)
                else:
                    fields = {"uuid": event.task_id, "name": TASK_NAME, "terminated": event.terminated}
                    self._send(worker, "task-revoked", **fields)

    @staticmethod
    def _count(ended: int) -> None:
        celery_state.all_total_count[0] = ended
        celery_state.total_count[TASK_NAME] = ended

    @staticmethod
    def _send(worker: Any, event: str, **fields: Any) -> None:
        dispatcher = worker.consumer and worker.consumer.event_dispatcher
        if dispatcher:
            dispatcher.send(event, **fields)


@inspect_command(alias="dump_active")  # type: ignore[untyped-decorator]
def active(state: Any, safe: bool = False, **_: Any) -> list[dict[str, Any]]:
    """List the tasks that run now."""
    pool: ProcessPool = state.consumer.pool
    return [TaskView(running, pool.redis).info() for running in pool.processes.running()]


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")  # type: ignore[untyped-decorator]
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **_: Any) -> dict[str, str]:
    """Cancel tasks that wait; with `terminate` also those that run."""
    settings: Settings = state.app.conf.denzel_settings
    store = TaskStore(state.consumer.pool.redis)
    cancelled = []
    for one in [task_id] if isinstance(task_id, str) else task_id:
        record = store.find(one)
        if record is not None and (terminate or record.status == PENDING):
            store.cancel(one, ttl=settings.result_lifetime)
            cancelled.append(one)
    if cancelled:
        return {"ok": f"cancelled: {', '.join(cancelled)}"}
    return {"ok": "none of these tasks waits; celery control terminate KILL ends one that runs"}


@control_command(  # type: ignore[untyped-decorator]
    variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]"
)
def terminate(state: Any, signal: str, task_id: Any, **_: Any) -> dict[str, str]:
    """Cancel tasks, whether they wait or run."""
    answer: dict[str, str] = revoke(state, task_id, terminate=True)
    return answer


def consume_nothing(worker: CeleryWorker) -> None:
    """Take the queue from Celery's own consumer: the processes take tasks themselves."""
    worker.app.amqp.queues.deselect([keys.QUEUE])


def _arguments(redis: Redis, task_id: str) -> tuple[str, float]:
    """The arguments of a claimed task as the dashboard shows them, and since when it is claimed."""
    with redis.pipeline(transaction=False) as pipe:
        pipe.hget(keys.UNACKED, task_id)
        pipe.hget(keys.task(task_id), "since")
        text, since = pipe.execute()
    with suppress(ForeignMessage):
        # `[message, exchange, routing key]`, as Kombu stores it.
        message = text[1:].rsplit(", ", 2)[0] if text else ""
        return parse(message, 0.0).args_repr, float(since or 0)
    return "", float(since or 0)
