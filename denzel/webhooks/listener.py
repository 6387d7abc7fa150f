"""A small callback endpoint: it queues what arrives, with the result of the signature check."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from denzel.errors import DenzelError
from denzel.project import dotenv
from denzel.webhooks.http1 import headers
from denzel.webhooks.receiver import BODY_LIMIT, Receiver
from denzel.webhooks.signature import find_fault


@dataclass(frozen=True, kw_only=True)
class ReceivedCallback:
    """One callback: its arrival in Unix seconds, its path, and the result of the signature check.

    `fault` is the reason of a bad signature, empty for a good one. `repeated`: its `webhook-id` had arrived before.
    """

    when: float
    path: str
    webhook_id: str
    signed: bool
    fault: str
    repeated: bool
    body: bytes


class Secret:
    """Reads CALLBACK_SECRET at each call; while .env is not valid, it returns the last value."""

    def __init__(self, env_file: Path, environ: Mapping[str, str], *, known: str) -> None:
        self._env_file = env_file
        self._environ = environ
        self._known = known

    def __call__(self) -> str:
        # The file may be edited at this moment.
        with suppress(DenzelError):
            self._known = dotenv.load(self._env_file, self._environ).callback_secret
        return self._known


@contextmanager
def listening(
    host: str, port: int, *, secret: Callable[[], str], body_limit: int = BODY_LIMIT
) -> Iterator[Iterator[ReceivedCallback]]:
    """Listen on a port, and yield an endless iterator of the callbacks; raises PortTaken and SettingInvalid.

    `secret` is called for each callback, as it may change meanwhile.
    """
    callbacks: SimpleQueue[ReceivedCallback] = SimpleQueue()
    seen: set[str] = set()
    loop = asyncio.new_event_loop()

    def take(path: str, head: bytes, body: bytes) -> int:
        given = headers(head)
        webhook_id, signed = given.get("webhook-id", ""), "webhook-signature" in given
        callback = ReceivedCallback(
            when=time.time(),
            path=path,
            webhook_id=webhook_id,
            signed=signed,
            fault=find_fault(given, body, secret=secret(), now=time.time()) if signed else "",
            repeated=webhook_id in seen,
            body=body,
        )
        if webhook_id:
            seen.add(webhook_id)
        # After the answer: for the sender, every callback in the queue is delivered.
        loop.call_soon(callbacks.put, callback)
        return 204

    receiver = Receiver(host, port, take, body_limit=body_limit)
    # In a thread: callbacks are answered also while the last ones are printed.
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(receiver.open(), loop).result()
        yield iter(callbacks.get, None)
    finally:
        asyncio.run_coroutine_threadsafe(receiver.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
