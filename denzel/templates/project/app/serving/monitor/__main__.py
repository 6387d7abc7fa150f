"""Dashboard of tasks, by Flower: `python -m app.serving.monitor --port=5555 ...`, with the options of `celery flower`.

It reads events only, and imports neither the worker nor the pipeline. It keeps tasks in memory alone, whatever
`--persistent` is, and events are always enabled.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import Any

from celery import Celery
from flower import command
from flower.app import Flower
from flower.options import default_options
from flower.urls import settings as flower_settings
from tornado.ioloop import IOLoop

from app.serving.monitor.lazy_events import LazyEvents
from app.serving.settings import Settings
from app.serving.store import event_json, keys


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings for a program that only reads events."""
    return {
        "broker_url": settings.redis_url,
        "broker_transport_options": {"socket_keepalive": True},
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "accept_content": ["json"],
        "task_default_queue": keys.QUEUE,
    }


class Dashboard(Flower):  # type: ignore[misc]
    """Flower, whose metrics include events that are not processed yet."""

    def purge_offline_worker_metrics(self) -> None:
        """Process all events first. Flower calls this for each request of the metrics, which alone reads no state."""
        self.events.read()
        super().purge_offline_worker_metrics()


def main(arguments: list[str]) -> None:
    """Serve the dashboard until SIGTERM, as `celery flower` does, with LazyEvents."""
    command.apply_env_options()
    command.apply_options("monitor", arguments)
    command.extract_settings()
    command.setup_logging()
    event_json.register_reader()
    celery_app = Celery("denzel", set_as_current=False)
    celery_app.add_defaults(configuration(Settings.from_environment(os.environ)))
    events = LazyEvents(
        celery_app,
        IOLoop.current(),
        max_tasks_in_memory=default_options.max_tasks,
        max_workers_in_memory=default_options.max_workers,
    )
    flower = Dashboard(capp=celery_app, options=default_options, events=events, **flower_settings)
    atexit.register(flower.stop)
    signal.signal(signal.SIGTERM, command.sigterm_handler)
    flower.start_http_server()
    flower.start()


if __name__ == "__main__":
    main(sys.argv[1:])
