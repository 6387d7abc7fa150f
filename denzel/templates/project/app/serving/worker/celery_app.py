"""The Celery application of the worker, and its one task."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.exceptions import TaskPredicate
from celery.utils.log import get_multiprocessing_logger

from app.serving.errors import ends_process
from app.serving.settings import Settings
from app.serving.store import keys
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.connection import connect
from app.serving.store.messages import TASK_NAME, QueuedTask
from app.serving.store.tasks import TaskStore
from app.serving.store.workers import WorkerRegistry
from app.serving.worker import log_file
from app.serving.worker.batching.dispatcher import Dispatcher
from app.serving.worker.batching.poller import PollGrant
from app.serving.worker.batching.result_writer import ResultWriter
from app.serving.worker.batching.runner import BatchResult, BatchRunner
from app.serving.worker.batching.scoreboard import Scoreboard
from app.serving.worker.bootsteps import DispatcherStep, LogRotation, Registration
from app.serving.worker.model.predictor import Predictor
from app.serving.worker.pool import limit_exit_wait
from app.serving.worker.pool_process import exit_with_worker, prepare_model
from app.serving.worker.preload import Preload
from app.serving.worker.shutdown import GracefulShutdown, deregister, requeue_all
from app.serving.worker.sidecar_supervisor import SidecarSupervisor
from app.serving.worker.transport import Channel

#: Seconds that a process may take to load its model: any number. Celery would kill it after 4.
MODEL_LOADING_TIMEOUT = 10 * 365 * 24 * 3600.0

#: Seconds after its death until a process counts as lost: its last result may still be in the pipe. A process that ends
#: waits as long for the worker to read it.
EXIT_GRACE = 1.0


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings for one deployment. https://docs.celeryq.dev/en/stable/userguide/configuration.html"""
    return {
        "denzel_settings": settings,
        "broker_url": settings.redis_url,
        "broker_transport_options": {"socket_keepalive": True},
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "result_backend": "app.serving.worker.result_backend:RecordBackend",
        "result_backend_always_retry": True,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "task_default_queue": keys.QUEUE,
        # A task leaves the queue when it has ended, not when it was taken.
        "task_acks_late": True,
        # A task whose process died is requeued or dead-lettered, by its deliveries (store/claims.py).
        "task_reject_on_worker_lost": True,
        "task_time_limit": settings.task_time_limit,
        "worker_lost_wait": EXIT_GRACE,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_proc_alive_timeout": MODEL_LOADING_TIMEOUT,
        "worker_send_task_events": True,
        "worker_redirect_stdouts_level": "INFO",
    }


celery_app = Celery("denzel", set_as_current=False)
celery_app.add_defaults(lambda: configuration(Settings.from_environment(os.environ)))
celery_app.steps["worker"].update(
    {Preload, Registration, DispatcherStep, GracefulShutdown, LogRotation, SidecarSupervisor}
)

predictor = Preload.predictor = Predictor()
scoreboard = Scoreboard()


@celery_app.task(name=TASK_NAME)
def invoke_predict(json_data: Any) -> dict[str, Any]:
    """Run the pipeline over what verify_input returned; returns what predict returned, as JSON values."""
    try:
        return predictor.predict(json_data)
    except (TaskPredicate, SystemExit, KeyboardInterrupt) as error:
        if ends_process(error):
            # Celery ends the process.
            raise
        # Celery would obey its own exceptions, and take the others for the end of the process.
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def run_batch(slot: int, tasks: list[QueuedTask], grant: PollGrant | None) -> BatchResult:
    """Run a batch in a pool process."""
    return _runner().run(slot, tasks, grant)


@cache
def _runner() -> BatchRunner:
    settings: Settings = celery_app.conf.denzel_settings
    writer = ResultWriter(TaskStore(connect(settings.redis_url)), ttl=settings.result_lifetime)
    return BatchRunner(predictor, writer, Channel.dispatcher.claims, scoreboard)


@signals.celeryd_init.connect
def install_transport(conf: Any, **_: Any) -> None:
    """Let the worker take tasks through claims (store/claims.py), but no other program that uses this application."""
    settings: Settings = conf.denzel_settings
    redis = connect(settings.redis_url)
    claims = Claims(redis, ClaimLimits(deliveries=settings.task_max_deliveries, ttl=settings.result_lifetime))
    Channel.dispatcher = Dispatcher(claims, TaskStore(redis), scoreboard, settings, run_batch)
    conf.broker_transport = "app.serving.worker.transport:Transport"


@signals.worker_process_init.connect
def start_process(sender: str, **_: Any) -> None:
    """Prepare a pool process for its first task."""
    limit_exit_wait(EXIT_GRACE)
    exit_with_worker()
    prepare_model(predictor, WorkerRegistry(connect(celery_app.conf.denzel_settings.redis_url)), sender)


@signals.worker_shutdown.connect
def shut_down(sender: Any, **_: Any) -> None:
    """Requeue what a stopping worker still has, last of all."""
    requeue_all()
    deregister(sender)


@signals.after_setup_logger.connect
def write_log_file(logger: logging.Logger, **_: Any) -> None:
    """Write the worker's log to the project's logs folder too."""
    # The reader of the output may be gone (supervisord, killed): write the file, without a traceback for each line.
    logging.raiseExceptions = False
    path, formatter = Path(celery_app.conf.denzel_settings.worker_log), logger.handlers[0].formatter
    # The pool logs to its own logger how a process died.
    for each in (logger, get_multiprocessing_logger()):
        log_file.add_handler(each, path, formatter)
