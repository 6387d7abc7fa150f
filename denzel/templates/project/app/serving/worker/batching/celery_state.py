"""Celery's record of a worker's tasks, which its `inspect` and `control` commands use.

The only module that uses `celery.worker.state`, as read in Celery 5.7.0. A task of a batch is there as a TaskView, any
other as a request of Celery's own.
"""

from __future__ import annotations

from celery.worker.request import Request
from celery.worker.state import (
    active_requests,
    all_total_count,
    requests,
    reserved_requests,
    revoked,
    task_accepted,
    task_ready,
    total_count,
)

from app.serving.store.messages import TASK_NAME

__all__ = ["active_requests", "requests", "reserved_requests", "revoked", "task_accepted", "task_ready"]


def count_task() -> None:
    """Count a task that has ended before Celery had it."""
    all_total_count[0] += 1
    total_count[TASK_NAME] += 1


def tasks_of_celery() -> dict[str, str]:
    """The ids of the tasks that Celery itself runs, or will, by the delivery tags of their messages."""
    own = [request for request in list(requests.values()) if isinstance(request, Request)]
    return {request.message.delivery_tag: request.id for request in own}
