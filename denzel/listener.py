"""A small receiver of callbacks: what arrives, and whether its signature is good."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from queue import SimpleQueue
from typing import Any

from denzel.callback_server import CallbackServer
from denzel.errors import PortTaken, SettingInvalid
from denzel.signatures import find_fault

#: Bytes that the body of a callback may have.
BODY_LIMIT = 64 * 2**20

#: Seconds that a sender may be silent.
_PATIENCE = 60


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One callback that arrived: when (Unix seconds), where, and whether its signature is good.

    `fault` is why its signature is bad, empty when it is good. `repeated`: one with its `webhook-id` came before.
    """

    when: float
    path: str
    webhook_id: str
    signed: bool
    fault: str
    repeated: bool
    body: bytes


@contextmanager
def listening(host: str, port: int, *, secret: str, body_limit: int = BODY_LIMIT) -> Iterator[Iterator[Arrival]]:
    """Receive on a port meanwhile: callbacks as they arrive, without an end; raises PortTaken and SettingInvalid."""
    arrivals: SimpleQueue[Arrival] = SimpleQueue()
    with _open(host, port, _handler(arrivals, secret=secret, body_limit=body_limit)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield iter(arrivals.get, None)
        finally:
            server.shutdown()
            thread.join()


def _open(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> CallbackServer:
    try:
        return CallbackServer((host, port), handler)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no address"
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise PortTaken(
                f"Port {port} is already taken ({host}: {reason}).", hint="Pass another one with --port."
            ) from None
        raise SettingInvalid(
            f"Nobody can listen at {host}, port {port}: {reason}.",
            hint="Pass an address of this machine with --host, and with --port one above 1023.",
        ) from None


def _handler(arrivals: SimpleQueue[Arrival], *, secret: str, body_limit: int) -> type[BaseHTTPRequestHandler]:
    seen: set[str] = set()
    lock = threading.Lock()

    def is_repeated(webhook_id: str) -> bool:
        with lock:
            repeated = webhook_id in seen
            if webhook_id:
                seen.add(webhook_id)
        return repeated

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _PATIENCE

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit()):
                self._refuse(411)
                return
            if int(length) > body_limit:
                self._refuse(413)
                return
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                self.close_connection = True
                return
            arrival = self._arrival(body)
            self.send_response(204)
            self.end_headers()
            # After the answer: what is seen here is delivered, as far as its sender knows.
            arrivals.put(arrival)

        def _arrival(self, body: bytes) -> Arrival:
            headers = {name.lower(): value for name, value in self.headers.items()}
            webhook_id = headers.get("webhook-id", "")
            now = time.time()
            signed = "webhook-signature" in headers
            return Arrival(
                when=now,
                path=self.path,
                webhook_id=webhook_id,
                signed=signed,
                fault=find_fault(headers, body, secret=secret, now=now) if signed else "",
                repeated=is_repeated(webhook_id),
                body=body,
            )

        def _refuse(self, status: int) -> None:
            self.send_response(status)
            if status == 405:
                self.send_header("Allow", "POST")
            self.send_header("Content-Length", "0")
            # The body, if there is one, is not read.
            self.send_header("Connection", "close")
            self.end_headers()

        def _refuse_method(self) -> None:
            self._refuse(405)

        do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse_method

        def log_message(self, *_: Any) -> None:
            """Be quiet: the callbacks are all there is to say."""

    return Handler
