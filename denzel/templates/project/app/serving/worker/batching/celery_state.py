"""Celery's record of a worker's tasks, which its `inspect` and `control` commands use.

The only module that uses `celery.worker.state`, as read in Celery 5.7.0. Celery knows the tasks of a batch by a
TaskView, and others by a request of its own.
"""

from __future__ import annotations

from typing import Any

from celery.worker import state
from celery.worker.request import Request

from app.serving.store.messages import TASK_NAME


def accept(task: Any) -> None:
    """Count a task, and show it as active."""
    state.task_accepted(task)


def remove(task: Any) -> None:
    """Show a task no more: it has ended, or goes back to the queue."""
    state.task_ready(task)


def count() -> None:
    """Count a task that has ended before it was shown."""
    state.all_total_count[0] += 1
    state.total_count[TASK_NAME] += 1


def find(task_id: str) -> Any:
    """The task of this id; None when the worker does not have it."""
    return state.requests.get(task_id)


def active() -> int:
    """The number of tasks that run."""
    return len(state.active_requests)


def reserved() -> int:
    """The number of tasks for which Celery itself holds a process, or will."""
    return len(state.reserved_requests)


def is_revoked(task_id: str) -> bool:
    """True when `celery control revoke` named the task within the last three hours."""
    return task_id in state.revoked


def has_revoked() -> bool:
    """True when `celery control revoke` named any task within the last three hours."""
    return bool(state.revoked)


def unfinished() -> dict[str, str]:
    """The ids of the tasks that Celery itself handles, by the delivery tags of their messages."""
    requests = [request for request in list(state.requests.values()) if isinstance(request, Request)]
    return {request.message.delivery_tag: request.id for request in requests}
