"""Fixtures of the tests of callbacks: an outbox, senders, and the endpoints that they send to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from doubles.endpoint import Listen, SocketServer
from doubles.receiver import Receiver, receiving
from redis import Redis
from support.callbacks import DAY, Pool, Scripted, Sending, Start, running_sender
from support.paths import PROJECT

from app.serving.callbacks import retry
from app.serving.callbacks import sender as sender_module
from app.serving.callbacks.delivery import Delivery
from app.serving.store.outbox import Outbox

PROGRAM = """
import os
from app.serving.callbacks import __main__ as process, sender
from app.serving.store import outbox
outbox.CALLBACK_LEASE = 2
sender.LEASE_RENEW_INTERVAL = 0.5
sender.STEP_TIMEOUT = float(os.environ.get("STEP_TIMEOUT", "60"))
process.main()
"""


@pytest.fixture
def box(broker: Redis) -> Outbox:
    return Outbox(broker, result_ttl=60, callback_ttl=600)


@pytest.fixture
def sending(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sending]:
    """Starts a sender, and returns what stops it; at the end of the test each is stopped."""
    monkeypatch.setattr(sender_module, "POLL_INTERVAL", 0.1)
    with ExitStack() as stack:

        def start(*, timeout: float = 10, retry_for: float = DAY, key: bytes = b"") -> Callable[[], None]:
            connections = Pool(timeout)
            sender = stack.enter_context(ExitStack())
            sender.callback(connections.close)
            sender.enter_context(running_sender(box, Delivery(connections, key=key, retry_for=retry_for).send))
            return sender.close

        yield start


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt comes after 0.1 s, and no wait is longer than 0.4 s."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(retry, "MAX_BACKOFF", 0.4)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """Starts endpoints with these answers."""
    with ExitStack() as stack:

        def start(*answers: Any, port: int = 0) -> Receiver:
            return stack.enter_context(receiving(*answers, port=port))

        yield start


@pytest.fixture
def start_process(redis_url: str) -> Iterator[Start]:
    """Starts the sender as a process of its own, with short leases."""
    processes: list[subprocess.Popen[str]] = []

    def start(*pipes: int, **environ: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "REDIS_URL": redis_url, "CALLBACK_LOOPBACK": "open", **environ}
        options: dict[str, Any] = {"cwd": PROJECT, "env": environment, "pass_fds": pipes}
        processes.append(
            subprocess.Popen([sys.executable, "-c", PROGRAM], **options, stderr=subprocess.PIPE, text=True)
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def listen() -> Iterator[Listen]:
    servers: list[SocketServer] = []

    def start(handle: Callable[[Any], None], **options: Any) -> SocketServer:
        servers.append(SocketServer(handle, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
