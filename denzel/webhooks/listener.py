"""A small callback endpoint: it queues what arrives, with the result of the signature check."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from denzel.errors import DenzelError, PortTaken, SettingInvalid
from denzel.project import dotenv
from denzel.webhooks.server import BODY_LIMIT, CallbackHandler, CallbackServer
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
    with _open(host, port, _handler(callbacks, secret=secret, body_limit=body_limit)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield iter(callbacks.get, None)
        finally:
            server.shutdown()
            thread.join()


def _open(host: str, port: int, handler: type[CallbackHandler]) -> CallbackServer:
    try:
        return CallbackServer((host, port), handler)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not an address"
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise PortTaken(
                f"Port {port} is already taken ({host}: {reason}).", hint="Pass another one with --port."
            ) from None
        raise SettingInvalid(
            f"Cannot listen at {host}, port {port}: {reason}.",
            hint="Pass an address of this machine with --host, and a port above 1023 with --port.",
        ) from None


def _handler(
    callbacks: SimpleQueue[ReceivedCallback], *, secret: Callable[[], str], body_limit: int
) -> type[CallbackHandler]:
    seen: set[str] = set()
    answering = threading.Lock()

    class Handler(CallbackHandler):
        protocol_version = "HTTP/1.1"

        def take(self, headers: Mapping[str, str], body: bytes) -> None:
            webhook_id = headers.get("webhook-id", "")
            signed = "webhook-signature" in headers
            fault = find_fault(headers, body, secret=secret(), now=time.time()) if signed else ""
            # One at a time, so that they are queued in the order in which they were answered.
            with answering:
                self.send_response(204)
                self.end_headers()
                # After the answer: for the sender, every callback in the queue is delivered.
                callbacks.put(
                    ReceivedCallback(
                        when=time.time(),
                        path=self.path,
                        webhook_id=webhook_id,
                        signed=signed,
                        fault=fault,
                        repeated=webhook_id in seen,
                        body=body,
                    )
                )
                if webhook_id:
                    seen.add(webhook_id)

    Handler.body_limit = body_limit
    return Handler
