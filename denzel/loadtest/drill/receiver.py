"""Callback receiver with injected faults: it answers 500, hangs or is down, and recovers."""

from __future__ import annotations

import enum
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from denzel.loadtest.drill.results import CallbackReceipt
from denzel.loadtest.http.sink import bind_error
from denzel.webhooks.server import CallbackHandler, CallbackServer
from denzel.webhooks.signature import find_fault


class Behaviour(enum.Enum):
    """The treatment of callbacks: accept them, answer 500, never answer, or refuse the connection."""

    ACCEPT = "accepts"
    ERROR = "answers 500"
    HANG = "silent"
    DOWN = "closed"


class Receiver:
    """Records the callbacks that it accepts; use it in a `with`. With a `secret` their signatures are checked.

    Raises PortTaken. The port 0 stands for any free one; `port` is the real one once it is open.
    """

    def __init__(self, host: str, port: int, *, secret: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.port = port
        self._host = host
        self._secret = secret
        self._clock = clock
        # So that a callback of another drill is not taken for one of this.
        self._path = f"/{secrets.token_hex(8)}/"
        self._behaviour = Behaviour.ACCEPT
        self._server: CallbackServer | None = None
        self._receipts: list[CallbackReceipt] = []
        self._hanging: list[socket.socket] = []

    def __enter__(self) -> Receiver:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        for connection in self._hanging:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def receipts(self) -> list[CallbackReceipt]:
        """Every callback that was accepted so far, in order."""
        return list(self._receipts)

    @property
    def hanging(self) -> int:
        """The number of callbacks that were left without a response so far."""
        return len(self._hanging)

    def address(self, host: str, number: int) -> str:
        """The callback URI of one request, for a sender that reaches this machine as `host`."""
        return f"http://{host}:{self.port}{self._path}{number}"

    def set_behaviour(self, behaviour: Behaviour) -> None:
        """Treat callbacks so from now on; raises PortTaken when another program has taken the port meanwhile."""
        self._behaviour = behaviour
        if behaviour is Behaviour.DOWN:
            self._close()
        elif self._server is None:
            self._open()

    def _open(self) -> None:
        try:
            self._server = CallbackServer((self._host, self.port), _handler(self))
        except OSError as error:
            raise bind_error(self.port, error) from None
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def _close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def receive(self, path: str, headers: Mapping[str, str], body: bytes) -> int | None:
        """The status that a callback is answered with; None for no response."""
        if self._behaviour is Behaviour.HANG:
            return None
        if self._behaviour is not Behaviour.ACCEPT:
            return 500
        number = path.removeprefix(self._path)
        if not path.startswith(self._path) or not (number.isascii() and number.isdigit()):
            return 404
        fault = find_fault(headers, body, secret=self._secret, now=time.time()) if self._secret else ""
        task_id = headers.get("webhook-id", "")
        self._receipts.append(CallbackReceipt(when=self._clock(), number=int(number), task_id=task_id, fault=fault))
        return 204

    def hang(self, connection: socket.socket) -> None:
        """Leave a callback without a response until its sender closes the connection, or this receiver ends."""
        self._hanging.append(connection)
        with suppress(OSError):
            while connection.recv(1024):
                pass


def _handler(receiver: Receiver) -> type[CallbackHandler]:
    class Handler(CallbackHandler):
        # One callback for each connection: a persistent one would reach a receiver that is down.
        protocol_version = "HTTP/1.0"

        def take(self, headers: Mapping[str, str], body: bytes) -> None:
            status = receiver.receive(self.path, headers, body)
            if status is None:
                receiver.hang(self.connection)
                return
            self.send_response(status)
            self.end_headers()

    return Handler
