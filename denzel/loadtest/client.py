"""Asynchronous HTTP client of one server, over persistent connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from denzel.webhooks.http1 import MalformedMessage, MessageParser, header

#: Bytes that a response may have.
_RESPONSE_LIMIT = 512 * 2**20

#: Seconds after which a server may be about to close an idle connection.
IDLE_LIMIT = 1.0


class NoResponse(Exception):
    """The server could not be reached, or closed the connection without a response."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A server's response, and when it was complete (on the client's clock)."""

    status: int
    head: bytes
    body: bytes
    when: float


class HttpClient:
    """Sends requests to one server, with a connection for each concurrent one; use it in an `async with`.

    A connection that was idle for `idle_limit` seconds is not used again, with 0 none at all.
    """

    def __init__(
        self, host: str, port: int, *, idle_limit: float = IDLE_LIMIT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = host, port
        self._idle_limit = idle_limit
        self._clock = clock
        #: Last in, first out, so that few are kept when few are needed.
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._open:
            connection.close()
        # Sockets are closed in the next iteration of the event loop.
        await asyncio.sleep(0)

    async def send(self, request: bytes) -> HttpResponse:
        """The response to a request, which is passed as it is written to the socket; raises NoResponse."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable(self._clock() - self._idle_limit):
                try:
                    return await self._send(connection, request)
                except NoResponse:
                    # A server may close an idle connection at any time, also while a request is on its way.
                    break
            self._drop(connection)
        return await self._send(await self._connect(), request)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self._clock), *self._address)
        except OSError:
            raise NoResponse from None
        self._open.add(connection)
        return connection

    async def _send(self, connection: _Connection, request: bytes) -> HttpResponse:
        try:
            response = await connection.send(request)
        except BaseException:
            # Also on cancellation: the response may still arrive, and must not be taken for that of another request.
            self._drop(connection)
            raise
        if header(response.head, b"connection").lower() == b"close" or response.head.startswith(b"HTTP/1.0"):
            self._drop(connection)
        else:
            self._idle.append(connection)
        return response

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.close()


class _Connection(asyncio.Protocol):
    """One connection, with one request on it at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._parser = MessageParser(body_limit=_RESPONSE_LIMIT)
        self._transport: asyncio.Transport | None = None
        self._response: asyncio.Future[HttpResponse] | None = None
        self._used = clock()

    def is_reusable(self, since: float) -> bool:
        """True when it is open and was used after that."""
        return self._transport is not None and self._used > since

    async def send(self, request: bytes) -> HttpResponse:
        if self._transport is None:
            raise NoResponse
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._response

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._used = self._clock()
        try:
            for head, body in self._parser.feed(data):
                if self._response is not None and not self._response.done():
                    self._response.set_result(HttpResponse(int(head[9:12]), head, body, self._used))
        except (MalformedMessage, ValueError):
            self._fail()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail()

    def _fail(self) -> None:
        self.close()
        if self._response is not None and not self._response.done():
            self._response.set_exception(NoResponse())
