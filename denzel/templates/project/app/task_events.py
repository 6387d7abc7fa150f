"""What the dashboard is told of the tasks in parcels: Celery's task events, few and in bulk."""

from __future__ import annotations

from typing import Any

from app.messages import TASK_NAME
from app.parcel import Ended
from app.records import SUCCESS

#: Seconds between two messages to the dashboard, and the most events of one.
TELL_EVERY = 0.5
MOST_AT_ONCE = 2000


class TaskEvents:
    """Sends the events of a worker, by the dispatcher of its consumer.

    Celery tells that a task is received, started and ended, one event each. A task that is through before anybody could
    look has one event here, which says all that these say.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    def ended(self, task: Ended, shown_arguments: str, time_start: float) -> None:
        """A task has ended."""
        fields = {"result": task.shown} if task.status == SUCCESS else {"exception": task.shown, "traceback": ""}
        self._send(
            "task-succeeded" if task.status == SUCCESS else "task-failed",
            uuid=task.task_id,
            **_description(shown_arguments),
            received=time_start,
            started=time_start,
            runtime=task.runtime,
            **fields,
        )

    def running(self, task_id: str, shown_arguments: str, time_start: float) -> None:
        """A task is running for longer than a moment."""
        self._send("task-started", uuid=task_id, **_description(shown_arguments), received=time_start)

    def revoked(self, task_id: str) -> None:
        """A task was cancelled, and the process that ran it ended."""
        self._send("task-revoked", uuid=task_id, terminated=True, signum="SIGKILL", expired=False)

    def flush(self) -> None:
        """Send what has gathered. Call it every TELL_EVERY seconds."""
        dispatcher = self._dispatcher
        if dispatcher is not None:
            # A new one after each time that Redis was away; as Celery makes it, it sends as soon as it can.
            dispatcher.on_send_buffered = None
            dispatcher.buffer_limit = MOST_AT_ONCE
            dispatcher.flush()

    @property
    def _dispatcher(self) -> Any:
        consumer = self._worker.consumer
        return consumer and consumer.event_dispatcher

    def _send(self, event: str, **fields: Any) -> None:
        if self._dispatcher is not None:
            self._dispatcher.send(event, **fields)


def _description(shown_arguments: str) -> dict[str, str]:
    return {"name": TASK_NAME, "args": shown_arguments, "kwargs": "{}"}
