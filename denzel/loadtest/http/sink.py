"""A receiver that takes thousands of callbacks a second: it notes when each came, and for which request."""

from __future__ import annotations

import asyncio
import errno
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from denzel.errors import PortTaken
from denzel.loadtest.http.http1 import Malformed, Messages, header
from denzel.webhooks.server import BODY_LIMIT

#: What is told of a callback: the number of its request, when it came, its `webhook-id`, its body.
Taken = Callable[[int, float, str, bytes], None]

#: Digits of a number, so that every address is as long as the others.
DIGITS = 9


class CallbackSink:
    """Listens on a port of its own; use it in an `async with`, which raises PortTaken.

    The port 0 stands for any free one; `port` is the real one once it is open.
    """

    def __init__(self, host: str, port: int, taken: Taken, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.port = port
        self._host = host
        self._taken = taken
        self._clock = clock
        # No callback of another run is taken for one of this.
        self._path = f"/{secrets.token_hex(8)}/"
        self._server: asyncio.Server | None = None
        self._open: set[_Sender] = set()

    async def __aenter__(self) -> CallbackSink:
        loop = asyncio.get_running_loop()
        try:
            # Callbacks may come in a burst, which a short queue would turn away.
            self._server = await loop.create_server(lambda: _Sender(self), self._host, self.port, backlog=256)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            reason = "Address already in use" if error.errno == errno.EADDRINUSE else "Permission denied"
            raise PortTaken(
                f"The receiver cannot have port {self.port}: {reason}.", hint="Pass another one with --port."
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for sender in list(self._open):
            sender.close()
        # What was closed is gone in the next round of the loop.
        await asyncio.sleep(0)

    def address(self, host: str, number: int) -> str:
        """Where the callback of one request is to be sent by somebody who reaches this machine as `host`."""
        return f"http://{host}:{self.port}{self._path}{number:0{DIGITS}}"

    def answer(self, head: bytes, body: bytes) -> int:
        """The status that a request is answered with; what is no callback of this run is refused."""
        method, _, rest = head.partition(b" ")
        if method != b"POST":
            return 405
        path = rest.partition(b" ")[0].decode("latin1")
        number = path.removeprefix(self._path)
        if not path.startswith(self._path) or len(number) != DIGITS or not (number.isascii() and number.isdigit()):
            return 404
        self._taken(int(number), self._clock(), header(head, b"webhook-id").decode("latin1"), body)
        return 204

    def opened(self, sender: _Sender) -> None:
        self._open.add(sender)

    def closed(self, sender: _Sender) -> None:
        self._open.discard(sender)


class _Sender(asyncio.Protocol):
    """One connection of somebody who sends callbacks, one after another."""

    def __init__(self, sink: CallbackSink) -> None:
        self._sink = sink
        self._messages = Messages(body_limit=BODY_LIMIT)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sink.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._sink.closed(self)

    def data_received(self, data: bytes) -> None:
        try:
            for head, body in self._messages.feed(data):
                status = self._sink.answer(head, body)
                # To a callback the answer is short: this is most of what the receiver costs.
                self._write(b"HTTP/1.1 204 No Content\r\n\r\n" if status == 204 else _refusal(status))
                if b" HTTP/1.0" in head[: head.find(b"\r\n")]:
                    self.finish()
        except Malformed as error:
            self._write(_refusal(error.status))
            self.finish()

    def finish(self) -> None:
        """Close it when what was answered has been sent."""
        if self._transport is not None:
            self._transport.close()

    def close(self) -> None:
        if self._transport is not None:
            with suppress(OSError):
                self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _refusal(status: int) -> bytes:
    allow = b"Allow: POST\r\n" if status == 405 else b""
    return b"HTTP/1.1 %d No\r\n%sContent-Length: 0\r\n\r\n" % (status, allow)
