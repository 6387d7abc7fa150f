"""Submissions: what a request hands over to the queue, what becomes of it, and its state in between."""

from __future__ import annotations

import asyncio
import os
from typing import Any, NamedTuple

from app.serving.queue.waiting import Preferences
from app.serving.store.messages import task_message
from app.serving.store.tasks import Idempotency, NewTask, TaskRecord


class TaskRequest(NamedTuple):
    """A task to submit: what verify_input returned (JSON values), where its callback goes, its idempotency key, and the
    headers that follow it.
    """

    verified: Any
    callback_uri: str | None = None
    idempotency: Idempotency | None = None
    trace: dict[str, str] | None = None


class SubmitResult(NamedTuple):
    """A task on the queue. `waited` is True when the request waited for its end; `record` is then the task as it was
    after that, or None when it could not be read.
    """

    task_id: str
    waited: bool = False
    record: TaskRecord | None = None


class Submission:
    """A request between the acceptance of its task and the outcome.

    That is an Enqueued, when it does not wait; the notice of the end; or None, when the task is to be looked up.
    """

    __slots__ = ("deadline", "is_waiting", "outcome", "prefer", "task_id", "timer")

    def __init__(self, task_id: str, prefer: Preferences, outcome: asyncio.Future[Any]) -> None:
        self.task_id, self.prefer, self.outcome = task_id, prefer, outcome
        self.deadline = 0.0
        self.is_waiting = False
        self.timer: asyncio.TimerHandle | None = None


def new_id() -> str:
    """A random UUID, version 4 (RFC 9562), in a third of the time of `uuid.uuid4`."""
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


def new_task(task_id: str, request: TaskRequest, prefer: Preferences) -> NewTask:
    """The task of a request, as it is stored."""
    return NewTask(
        task_id=task_id,
        message=task_message(task_id, request.verified, request.trace),
        callback_uri=request.callback_uri,
        idempotency=request.idempotency,
        prefer="wait" if prefer.wait is not None else "respond-async" if prefer.respond_async else "",
    )
