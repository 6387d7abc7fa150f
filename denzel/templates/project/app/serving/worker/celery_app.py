"""The Celery application of the worker, and its one task."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.utils.log import get_multiprocessing_logger

from app.serving.logs.lines import TaskFormatter, log_output, own_log
from app.serving.running_task import report_bar
from app.serving.settings import Settings
from app.serving.store import keys
from app.serving.store.messages import TASK_NAME
from app.serving.worker import log_file
from app.serving.worker.model.predictor import Predictor
from app.serving.worker.node import ProcessPool, Report, consume_nothing


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings for one deployment. https://docs.celeryq.dev/en/stable/userguide/configuration.html"""
    return {
        "denzel_settings": settings,
        "broker_url": settings.redis_url,
        "broker_transport_options": {"socket_keepalive": True},
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "accept_content": ["json"],
        "task_serializer": "json",
        "task_default_queue": keys.QUEUE,
        "task_ignore_result": True,
        "worker_pool": f"{ProcessPool.__module__}:{ProcessPool.__qualname__}",
        "worker_send_task_events": True,
        # Celery makes a line of each part that `print` writes.
        "worker_redirect_stdouts": False,
    }


celery_app = Celery("denzel", set_as_current=False)
celery_app.add_defaults(lambda: configuration(Settings.from_environment(os.environ)))
celery_app.steps["worker"].add(Report)


@celery_app.task(name=TASK_NAME)
def invoke_predict(json_data: Any) -> Any:
    """Run the pipeline over what verify_input returned, in this process: the worker's run it without Celery."""
    predictor = Predictor()
    predictor.load(lambda cause, hint: None)
    return predictor.predict(json_data)


@signals.celeryd_after_setup.connect
def leave_tasks_to_processes(instance: Any, **_: Any) -> None:
    """Consume no queue in the worker's main process."""
    consume_nothing(instance)


@signals.after_setup_logger.connect
def write_log_file(logger: logging.Logger, **_: Any) -> None:
    """Write the worker's log to the project's logs folder too, and what is printed to both."""
    # The reader of the output may be gone (supervisord, killed): write the file, without a traceback for each line.
    logging.raiseExceptions = False
    path = Path(celery_app.conf.denzel_settings.worker_log)
    for each in (logger, get_multiprocessing_logger()):
        for handler in each.handlers:
            handler.setFormatter(TaskFormatter())
        log_file.add_handler(each, path, TaskFormatter())
    own_log(logger.handlers)
    log_output(tuple(logger.handlers), on_draw=report_bar)
