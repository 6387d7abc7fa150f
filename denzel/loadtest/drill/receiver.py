"""A receiver of callbacks that can be told to fail, to be silent, to go away, and to come back."""

from __future__ import annotations

import enum
import errno
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from denzel.errors import PortTaken
from denzel.loadtest.drill.results import DrillCallback
from denzel.webhooks.server import CallbackHandler, CallbackServer
from denzel.webhooks.signature import find_fault


class Behaviour(enum.Enum):
    """What a receiver does with a callback: take it, answer 500, say nothing, or not even be there."""

    TAKING = "taking"
    FAILING = "answers 500"
    SILENT = "silent"
    CLOSED = "closed"


class Receiver:
    """Keeps the callbacks that it took; use it in a `with`. With a `secret` their signatures are checked.

    Raises PortTaken. The port 0 stands for any free one; `port` is the real one once it is open.
    """

    def __init__(self, host: str, port: int, *, secret: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.port = port
        self._host = host
        self._secret = secret
        self._clock = clock
        # No callback of another drill is taken for one of this.
        self._path = f"/{secrets.token_hex(8)}/"
        self._mood = Behaviour.TAKING
        self._server: CallbackServer | None = None
        self._arrivals: list[DrillCallback] = []
        self._held: list[socket.socket] = []

    def __enter__(self) -> Receiver:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        for connection in self._held:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def arrivals(self) -> list[DrillCallback]:
        """Every callback that was taken until now, in order."""
        return list(self._arrivals)

    @property
    def holds(self) -> int:
        """How many senders have been left without an answer until now."""
        return len(self._held)

    def address(self, host: str, number: int) -> str:
        """Where the callback of one request is to be sent by somebody who reaches this machine as `host`."""
        return f"http://{host}:{self.port}{self._path}{number}"

    def turn(self, mood: Behaviour) -> None:
        """Be so from now on; raises PortTaken when another program has the port meanwhile."""
        self._mood = mood
        if mood is Behaviour.CLOSED:
            self._close()
        elif self._server is None:
            self._open()

    def _open(self) -> None:
        try:
            self._server = CallbackServer((self._host, self.port), _handler(self))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise PortTaken(
                f"The receiver cannot have port {self.port}: {error.strerror}.", hint="Pass another one with --port."
            ) from None
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def _close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> int | None:
        """The status that a callback is answered with; None for no answer."""
        if self._mood is Behaviour.SILENT:
            return None
        if self._mood is not Behaviour.TAKING:
            return 500
        number = path.removeprefix(self._path)
        if not path.startswith(self._path) or not (number.isascii() and number.isdigit()):
            return 404
        fault = find_fault(headers, body, secret=self._secret, now=time.time()) if self._secret else ""
        task_id = headers.get("webhook-id", "")
        self._arrivals.append(DrillCallback(when=self._clock(), number=int(number), task_id=task_id, fault=fault))
        return 204

    def hold(self, connection: socket.socket) -> None:
        """Say nothing until the sender gives up, or this receiver ends."""
        self._held.append(connection)
        with suppress(OSError):
            while connection.recv(1024):
                pass


def _handler(receiver: Receiver) -> type[CallbackHandler]:
    class Handler(CallbackHandler):
        # One callback a connection: over one that was kept, a receiver that is closed could still be reached.
        protocol_version = "HTTP/1.0"

        def take(self, headers: Mapping[str, str], body: bytes) -> None:
            status = receiver.answer(self.path, headers, body)
            if status is None:
                receiver.hold(self.connection)
                return
            self.send_response(status)
            self.end_headers()

    return Handler
