"""What the log and the dashboard are told of the tasks in parcels: Celery's task events, few and in bulk."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from app.serving.store import event_json
from app.serving.store.claims import DeadLettered
from app.serving.store.messages import TASK_NAME, QueuedTask
from app.serving.store.tasks import SUCCESS
from app.serving.worker.batching.runner import PolledTask, TaskResult

log = logging.getLogger(__name__)

#: Seconds between two messages to the dashboard, and the most events of one.
FLUSH_INTERVAL = 0.5
MAX_EVENTS_PER_FLUSH = 2000

#: Of what a process did by itself, so many events are written at once, and seconds until the next so many are:
#: meanwhile it, and others, may want to be handed tasks.
WRITTEN_AT_ONCE = 100
WRITE_EVERY = 0.01

#: How many tasks that ended one line of the log names.
TASKS_A_LINE = 16


class Described(Protocol):
    """A task as the dashboard shows it: its arguments, since when it had waited, and when it began to run."""

    @property
    def id(self) -> str: ...
    @property
    def args_repr(self) -> str: ...
    @property
    def since(self) -> float: ...
    @property
    def time_start(self) -> float: ...


class TaskEvents:
    """Sends the events of a worker, by the dispatcher of its consumer.

    Celery tells that a task is received, started and ended, one event each. A task that is through before anybody could
    look has one event here, which says all that these say.
    """

    def __init__(self, worker: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._further: deque[PolledTask] = deque()
        self._writes_at = 0.0
        #: What the log is to say.
        self._ended: list[str] = []
        event_json.register_writer()

    def ended(self, task: TaskResult, request: Described) -> None:
        """A task has ended. Where it was in a batch, the time that it took is the batch's."""
        self._ended.append(f"{task.task_id} {task.status} in {task.runtime:.3f} s")
        fields = {"result": task.shown} if task.status == SUCCESS else {"exception": task.shown, "traceback": ""}
        self._send(
            "task-succeeded" if task.status == SUCCESS else "task-failed",
            uuid=task.task_id,
            **_description(request),
            started=request.time_start,
            runtime=task.runtime,
            **fields,
        )

    def further(self, tasks: Iterable[PolledTask]) -> None:
        """Tasks that a process took from the queue itself have ended."""
        self._further.extend(tasks)

    def running(self, request: Described) -> None:
        """A task is running for longer than a moment."""
        self._send("task-started", uuid=request.id, **_description(request))

    def given_up(self, task: DeadLettered, request: Described | None = None) -> None:
        """A task was ended, because it killed its process too often."""
        described = _description(request) if request is not None else {"name": TASK_NAME}
        self._send("task-failed", uuid=task.task_id, **described, exception=task.reason, traceback="")

    def revoked(self, request: Described, *, terminated: bool) -> None:
        """A task was cancelled, and the process that ran it `terminated` or not."""
        self._send("task-revoked", uuid=request.id, **_description(request), terminated=terminated)

    def cancelled(self, item: QueuedTask) -> None:
        """A task was cancelled while it waited, and its turn came."""
        self._send("task-revoked", uuid=item.task_id, **_shown(item.args_repr, item.since), terminated=False)

    def flush(self) -> None:
        """Send what has gathered. Call it every TELL_EVERY seconds."""
        self._write()
        for first in range(0, len(self._ended), TASKS_A_LINE):
            log.info("ended: %s", ", ".join(self._ended[first : first + TASKS_A_LINE]))
        self._ended.clear()
        dispatcher = self._dispatcher
        if dispatcher is not None:
            # A new one after each time that Redis was away; as Celery makes it, it sends as soon as it can.
            dispatcher.on_send_buffered = None
            dispatcher.buffer_limit = MAX_EVENTS_PER_FLUSH
            dispatcher.serializer = event_json.NAME
            dispatcher.flush()

    def _write(self) -> None:
        now = self._clock()
        # Celery may have dropped all its timers meanwhile, so this is no matter of one that was set.
        if now < self._writes_at:
            return
        for _ in range(min(len(self._further), WRITTEN_AT_ONCE)):
            task = self._further.popleft()
            self.ended(task.ended, task)
        if self._further:
            self._writes_at = now + WRITE_EVERY
            self._worker.timer.call_after(WRITE_EVERY, self._write)

    @property
    def _dispatcher(self) -> Any:
        consumer = self._worker.consumer
        return consumer and consumer.event_dispatcher

    def _send(self, event: str, **fields: Any) -> None:
        if self._dispatcher is not None:
            self._dispatcher.send(event, **fields)


def _description(request: Described) -> dict[str, Any]:
    return _shown(request.args_repr, request.since)


def _shown(arguments: str, since: float) -> dict[str, Any]:
    return {"name": TASK_NAME, "args": arguments, "kwargs": "{}", "received": since}
