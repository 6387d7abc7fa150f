"""The Celery application of the dashboard: it watches, and needs neither the worker's rooms nor the pipeline."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from app import keys
from app.settings import Settings


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings for who only watches."""
    return {
        "broker_url": settings.redis_url,
        "broker_transport_options": {"socket_keepalive": True},
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "accept_content": ["json"],
        "task_default_queue": keys.QUEUE,
    }


celery_app = Celery("denzel", set_as_current=False)
celery_app.add_defaults(lambda: configuration(Settings.from_environment(os.environ)))
