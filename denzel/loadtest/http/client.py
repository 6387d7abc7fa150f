"""Requests to one server, over connections that are kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from denzel.loadtest.http.http1 import Malformed, Messages, header

#: Bytes that an answer may have.
_ANSWER_LIMIT = 512 * 2**20

#: Seconds after which a connection that nobody used is not used again: the server may be closing it just now.
_KEEP_FOR = 1.0


class NoAnswer(Exception):
    """The server could not be reached, or ended the connection without an answer."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What a server answered, and when (on the client's clock)."""

    status: int
    head: bytes
    body: bytes
    when: float


class Client:
    """Asks one server, as many times at once as it is asked to; use it in an `async with`."""

    def __init__(self, host: str, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = host, port
        self._clock = clock
        #: The last that was used is the first to be used again, so that few are kept when few are needed.
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._open:
            connection.close()
        # What was closed is gone in the next round of the loop.
        await asyncio.sleep(0)

    async def ask(self, request: bytes) -> HttpResponse:
        """The answer to a request in the form it is sent in; raises NoAnswer."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fit(self._clock() - _KEEP_FOR):
                try:
                    return await self._ask(connection, request)
                except NoAnswer:
                    # The server closed it while the request was on its way, as it may; another one is made.
                    break
            self._drop(connection)
        return await self._ask(await self._connect(), request)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self._clock), *self._address)
        except OSError:
            raise NoAnswer from None
        self._open.add(connection)
        return connection

    async def _ask(self, connection: _Connection, request: bytes) -> HttpResponse:
        try:
            answer = await connection.ask(request)
        except BaseException:
            # Also when whoever asked does not wait any more: an answer may come that belongs to nobody.
            self._drop(connection)
            raise
        if header(answer.head, b"connection").lower() == b"close" or answer.head.startswith(b"HTTP/1.0"):
            self._drop(connection)
        else:
            self._idle.append(connection)
        return answer

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.close()


class _Connection(asyncio.Protocol):
    """One connection, with one request on it at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._messages = Messages(body_limit=_ANSWER_LIMIT)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[HttpResponse] | None = None
        self._used = clock()

    def is_fit(self, since: float) -> bool:
        """Whether it is open, and was used since then."""
        return self._transport is not None and self._used >= since

    async def ask(self, request: bytes) -> HttpResponse:
        if self._transport is None:
            raise NoAnswer
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

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
            for head, body in self._messages.feed(data):
                if self._answer is not None and not self._answer.done():
                    self._answer.set_result(HttpResponse(int(head[9:12]), head, body, self._used))
        except (Malformed, ValueError):
            self._fail()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail()

    def _fail(self) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(NoAnswer())
