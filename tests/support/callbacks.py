"""Tasks with callbacks, and a sender, for tests of callbacks."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvloop
from doubles.receiver import Receiver
from support.asgi_client import Loop
from support.records import record_of

from app.serving.callbacks.connections import ConnectionPool
from app.serving.callbacks.egress import EgressPolicy
from app.serving.callbacks.exchange import Response
from app.serving.callbacks.sender import CallbackSender
from app.serving.store.outbox import AttemptResult, Callback
from app.serving.store.tasks import CallbackReport, TaskStore

DAY = 86_400.0

Sending = Callable[..., Callable[[], None]]
Scripted = Callable[..., Receiver]
Start = Callable[..., "subprocess.Popen[str]"]

#: The loop of senders and their connections, as in the process of the sender.
LOOP = Loop(uvloop.new_event_loop)


class Pool(ConnectionPool):
    """A pool that may connect to loopback, for calls from any thread."""

    def __init__(self, timeout: float = 5, **policy: Any) -> None:
        super().__init__(EgressPolicy(**{"loopback": True, **policy}), timeout=timeout)

    def send(self, uri: str, body: bytes, headers: Mapping[str, str]) -> Response:
        return LOOP.run(self.post(uri, body, headers))

    def close(self, unused_for: float = 0) -> None:
        async def close() -> None:
            self.close_idle(unused_for)

        LOOP.run(close())


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
def running_sender(outbox: Any, deliver: Callable[[Callback], Awaitable[AttemptResult]]) -> Iterator[CallbackSender]:
    """Run a sender over this outbox until the end of the `with`."""
    sender = CallbackSender(outbox, deliver)

    async def stop() -> None:
        sender.stop()

    running = LOOP.start(sender.run())
    try:
        yield sender
    finally:
        LOOP.run(stop())
        running.result(30)


def report(records: TaskStore, task_id: str = "the-id") -> CallbackReport:
    reported = record_of(records, task_id).callback
    assert reported is not None
    return reported


def state(records: TaskStore, task_id: str = "the-id") -> str:
    return report(records, task_id).state


@contextmanager
def open_pool(timeout: float = 5, **policy: Any) -> Iterator[Pool]:
    """A pool that may connect to loopback; closed at the end."""
    opened = Pool(timeout, **policy)
    yield opened
    opened.close()


def post(connections: Pool, port: int, host: str = "127.0.0.1", body: bytes = b"{}") -> Response:
    return connections.send(f"http://{host}:{port}/stash", body, {"Content-Type": "application/json"})
