"""Tasks with callbacks, and a sender, for tests of callbacks."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from doubles.receiver import Receiver
from support.records import record_of

from app.serving.callbacks.sender import CallbackSender
from app.serving.store.outbox import AttemptResult, Callback
from app.serving.store.tasks import CallbackReport, TaskStore

DAY = 86_400.0

Sending = Callable[..., Callable[[], None]]
Scripted = Callable[..., Receiver]
Start = Callable[..., "subprocess.Popen[str]"]


def callback(**values: Any) -> Callback:
    return Callback(
        **{"task_id": "the-id", "endpoint": "a:80", "uri": "http://a/", "status": "SUCCESS", "result": "{}", **values}
    )


def end(records: TaskStore, uri: str | None, *, task_id: str = "the-id", status: str = "SUCCESS") -> None:
    """Store a task that was accepted and has ended."""
    records.enqueue(task_id, "message", callback_uri=uri, queue_limit=100_000)
    result = {"a123": "naïve ☃"} if status == "SUCCESS" else {"args": ["no"]}
    records.complete(task_id, status, result, ttl=60)


@contextmanager
def running_sender(outbox: Any, deliver: Callable[[Callback], AttemptResult], **events: Any) -> Iterator[None]:
    """Run a sender over this outbox until the end of the `with`."""
    sender = CallbackSender(outbox, deliver, **{"on_renew": lambda: None, **events})
    thread = threading.Thread(target=sender.run)
    thread.start()
    try:
        yield
    finally:
        sender.stop()
        thread.join(30)
        assert not thread.is_alive()


def report(records: TaskStore, task_id: str = "the-id") -> CallbackReport:
    reported = record_of(records, task_id).callback
    assert reported is not None
    return reported


def state(records: TaskStore, task_id: str = "the-id") -> str:
    return report(records, task_id).state
