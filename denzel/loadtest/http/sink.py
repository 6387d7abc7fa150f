"""Callback receiver for thousands of requests a second, with the number of the request in each callback's path."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from denzel.errors import PortTaken
from denzel.loadtest.http.http1 import MalformedMessage, MessageParser, header
from denzel.webhooks.server import BODY_LIMIT

#: Called with each callback: the number of its request, when it arrived, its `webhook-id`, its body.
OnCallback = Callable[[int, float, str, bytes], None]

#: Digits of a request's number in an address, so that all addresses have the same length.
NUMBER_DIGITS = 9


class CallbackSink:
    """Listens on a port of its own; use it in an `async with`, which raises PortTaken.

    The port 0 stands for any free one; `port` is the real one once it is open.
    """

    def __init__(
        self, host: str, port: int, on_callback: OnCallback, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.port = port
        self.connections: set[_SinkConnection] = set()
        self._host = host
        self._on_callback = on_callback
        self._clock = clock
        # So that a callback of another run is not taken for one of this.
        self._path = f"/{secrets.token_hex(8)}/"
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> CallbackSink:
        loop = asyncio.get_running_loop()
        try:
            # A short backlog would refuse connections when callbacks arrive in a burst.
            self._server = await loop.create_server(lambda: _SinkConnection(self), self._host, self.port, backlog=256)
        except OSError as error:
            raise bind_error(self.port, error) from None
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.abort()
        # Sockets are closed in the next iteration of the event loop.
        await asyncio.sleep(0)

    def address(self, host: str, number: int) -> str:
        """The callback URI of one request, for a sender that reaches this machine as `host`."""
        return f"http://{host}:{self.port}{self._path}{number:0{NUMBER_DIGITS}}"

    def receive(self, head: bytes, body: bytes) -> int:
        """The status that a request is answered with; what is no callback of this run is refused."""
        method, _, rest = head.partition(b" ")
        if method != b"POST":
            return 405
        path = rest.partition(b" ")[0].decode("latin1")
        digits = path.removeprefix(self._path)
        is_number = len(digits) == NUMBER_DIGITS and digits.isascii() and digits.isdigit()
        if not path.startswith(self._path) or not is_number:
            return 404
        self._on_callback(int(digits), self._clock(), header(head, b"webhook-id").decode("latin1"), body)
        return 204


class _SinkConnection(asyncio.Protocol):
    """One connection of a sender, which sends one callback after another."""

    def __init__(self, sink: CallbackSink) -> None:
        self._sink = sink
        self._parser = MessageParser(body_limit=BODY_LIMIT)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sink.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._sink.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            for head, body in self._parser.feed(data):
                status = self._sink.receive(head, body)
                # As short as can be: writing the response is most of the receiver's cost.
                self._write(b"HTTP/1.1 204 No Content\r\n\r\n" if status == 204 else _error_response(status))
                if b" HTTP/1.0" in head[: head.find(b"\r\n")]:
                    self._finish()
        except MalformedMessage as error:
            self._write(_error_response(error.status))
            self._finish()

    def abort(self) -> None:
        if self._transport is not None:
            with suppress(OSError):
                self._transport.abort()

    def _finish(self) -> None:
        """Close it once the responses are sent."""
        if self._transport is not None:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def bind_error(port: int, error: OSError) -> Exception:
    """PortTaken for a port that is in use or reserved; any other error as it is."""
    if error.errno not in (errno.EADDRINUSE, errno.EACCES):
        return error
    # The text of asyncio's own error repeats the address.
    return PortTaken(
        f"The receiver cannot listen on port {port}: {os.strerror(error.errno)}.", hint="Pass another one with --port."
    )


def _error_response(status: int) -> bytes:
    allow = b"Allow: POST\r\n" if status == 405 else b""
    return b"HTTP/1.1 %d No\r\n%sContent-Length: 0\r\n\r\n" % (status, allow)
