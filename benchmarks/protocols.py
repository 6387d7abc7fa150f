"""Two ends of HTTP for benchmarks: a client connection and a callback receiver, on asyncio's bare transports."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import NamedTuple


class Answer(NamedTuple):
    status: int
    body: bytes


class Messages(asyncio.Protocol):
    """Splits a stream into HTTP messages with a Content-Length, and passes each to `take`."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            at = head.lower().find(b"content-length:")
            # Without one there is no body, as in a 204; a chunked body would count as a wrong answer.
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + length
            if len(self._buffer) < whole:
                return
            body = self._buffer[end + 4 : whole]
            self._buffer = self._buffer[whole:]
            self.take(head, body)

    def take(self, head: bytes, body: bytes) -> None:
        raise NotImplementedError


class Connection(Messages):
    """A client's persistent connection, with one request on it at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request, and return its future answer; ConnectionResetError when the server closes the connection."""
        self._answer = asyncio.get_running_loop().create_future()
        if self.closed or self.transport is None:
            self._answer.set_exception(ConnectionResetError())
        else:
            self.transport.write(request)
        return self._answer

    def take(self, head: bytes, body: bytes) -> None:
        if b"connection: close" in head.lower():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    def close(self) -> None:
        self.closed = True
        if self.transport is not None:
            self.transport.close()


class Receiver(Messages):
    """One connection to a callback receiver, which calls `on_callback` with the path and the body of each."""

    def __init__(self, on_callback: Callable[[str, bytes], None], delay: float) -> None:
        super().__init__()
        self._on_callback = on_callback
        self._delay = delay

    @classmethod
    async def open(cls, on_callback: Callable[[str, bytes], None], *, delay: float = 0) -> OpenReceiver:
        """Listen on every address of this machine: containers do not connect over loopback."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: cls(on_callback, delay), "0.0.0.0", 0, backlog=1024)
        return OpenReceiver(server)

    def take(self, head: bytes, body: bytes) -> None:
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._respond, head, body)
        else:
            self._respond(head, body)

    def _respond(self, head: bytes, body: bytes) -> None:
        self._on_callback(head.split(b" ", 2)[1].decode(), body)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


class OpenReceiver:
    """A receiver that listens on `port`."""

    def __init__(self, server: asyncio.Server) -> None:
        self.port: int = server.sockets[0].getsockname()[1]
        self._server = server

    def close(self) -> None:
        self._server.close()
