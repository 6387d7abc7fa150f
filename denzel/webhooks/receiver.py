"""HTTP server for callbacks, thousands a second: for `denzel listen`, the drill and the bench.

Its behaviour can be changed meanwhile, to that of a receiver with a fault.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import socket
from collections.abc import Callable
from http import HTTPStatus

from denzel.errors import DenzelError, PortTaken, SettingInvalid
from denzel.webhooks.http1 import MalformedMessage, MessageParser, header

#: Limit of a callback's body in bytes.
BODY_LIMIT = 64 * 2**20

#: Seconds without input after which a connection is closed.
IDLE_LIMIT = 60.0

#: Handles a callback, given its path, its head and its body; returns the status that it is answered with.
Take = Callable[[str, bytes, bytes], int]


class Behaviour(enum.Enum):
    """The treatment of callbacks: take them, the same late, answer 500, never answer, or refuse the connection."""

    ACCEPT = "accepts"
    SLOW = "slow"
    ERROR = "answers 500"
    HANG = "silent"
    DOWN = "closed"


_ACCEPT = Behaviour.ACCEPT


class Receiver:
    """Listens on a port, from `open` to `close`; `delay` is in seconds, for the behaviour SLOW.

    Other methods than POST are refused (405), and a body without a length (411) or over `body_limit` bytes (413): the
    port may be open on every address of the machine, so no input is trusted. The port 0 stands for any free one; `port`
    is the real one once it is open.
    """

    def __init__(self, host: str, port: int, take: Take, *, body_limit: int = BODY_LIMIT, delay: float = 0) -> None:
        self.host = host
        self.port = port
        self.take = take
        self.body_limit = body_limit
        self.delay = delay
        self.behaviour = Behaviour.ACCEPT
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Listen; raises PortTaken, and SettingInvalid for another port or host that it cannot have."""
        loop = asyncio.get_running_loop()
        try:
            # asyncio's own errors have the reason in their text alone, or not at all.
            listening = socket.create_server((self.host, self.port))
        except (OSError, UnicodeError) as error:
            raise _cannot_listen(self.host, self.port, error) from None
        self.port = listening.getsockname()[1]
        # A short backlog would refuse connections when callbacks arrive in a burst.
        self._server = await loop.create_server(lambda: _Connection(self), sock=listening, backlog=256)
        if self._sweeping is None:
            self._sweep()

    async def close(self) -> None:
        """Free the port, and drop all connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        await self._shut(self.connections)

    async def set_behaviour(self, behaviour: Behaviour) -> None:
        """Treat callbacks so from now on; raises PortTaken when another program has the port by now.

        Those that were left without an answer before remain so.
        """
        self.behaviour = behaviour
        if behaviour is Behaviour.DOWN:
            await self._shut({connection for connection in self.connections if not connection.is_hanging})
        elif self._server is None:
            await self.open()

    async def _shut(self, connections: set[_Connection]) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(connections):
            connection.abort()
        # Sockets are closed in the next iteration of the event loop.
        await asyncio.sleep(0)

    def _sweep(self) -> None:
        """Close the connections that were idle for too long, now and from time to time."""
        loop = asyncio.get_running_loop()
        for connection in list(self.connections):
            if connection.used < loop.time() - IDLE_LIMIT:
                connection.abort()
        self._sweeping = loop.call_later(IDLE_LIMIT / 4, self._sweep)


class _Connection(asyncio.Protocol):
    """One connection of a sender, which sends one callback after another."""

    def __init__(self, receiver: Receiver) -> None:
        self.is_hanging = False
        self.used = 0.0
        self._receiver = receiver
        self._parser = MessageParser(body_limit=receiver.body_limit)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._is_finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._receiver.connections.add(self)
        self.used = self._loop.time()

    def connection_lost(self, error: Exception | None) -> None:
        self._receiver.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._is_finished:
            return
        self.used = self._loop.time()
        # A sender that asks before it sends a long body, such as curl.
        if data.endswith(b"\r\n\r\n") and b"\r\nexpect: 100-continue\r\n" in data.lower():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            for head, body in self._parser.feed(data):
                if self._receiver.behaviour is _ACCEPT:
                    self._answer(head, body)
                else:
                    self._misbehave(head, body)
        except MalformedMessage as error:
            self._write(error.status)
            self._finish()

    def abort(self) -> None:
        self._transport.abort()

    def _answer(self, head: bytes, body: bytes) -> None:
        line = head.partition(b"\r\n")[0].split(b" ")
        if len(line) != 3:
            status = 400
        elif line[0] != b"POST":
            status = 405
        elif not body and not header(head, b"content-length"):
            status = 411
        else:
            status = self._receiver.take(line[1].decode("latin1"), head, body)
        self._write(status)
        asks_for_end = line[-1] == b"HTTP/1.0" or (b"close" in head and header(head, b"connection").lower() == b"close")
        if asks_for_end or status in (400, 411):
            self._finish()

    def _misbehave(self, head: bytes, body: bytes) -> None:
        match self._receiver.behaviour:
            case Behaviour.SLOW:
                self._loop.call_later(self._receiver.delay, self._answer_late, head, body)
            case Behaviour.ERROR:
                self._write(500)
            case _:
                self.is_hanging = True

    def _answer_late(self, head: bytes, body: bytes) -> None:
        # For a sender that has given up, it is not taken.
        if self in self._receiver.connections:
            self._answer(head, body)

    def _write(self, status: int) -> None:
        if self._transport.is_closing():
            return
        if status == 204:
            # As short as can be: writing the response is most of the receiver's cost.
            self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            allow = "Allow: POST\r\n" if status == 405 else ""
            phrase = HTTPStatus(status).phrase
            self._transport.write(f"HTTP/1.1 {status} {phrase}\r\n{allow}Content-Length: 0\r\n\r\n".encode())

    def _finish(self) -> None:
        """Read no more. The sender closes the connection: if it still sends, a close would hide the answer from it."""
        self._is_finished = True
        self._transport.write_eof()


def _cannot_listen(host: str, port: int, error: OSError | UnicodeError) -> DenzelError:
    # The error's own text repeats the address.
    reason = (getattr(error, "strerror", None) or "it is not an address").partition(" (while")[0]
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return PortTaken(f"Port {port} is already taken ({host}: {reason}).", hint="Pass another one with --port.")
    above, address = "a port above 1023 with --port", "an address of this machine with --host"
    return SettingInvalid(
        f"Cannot listen at {host}, port {port}: {reason}.",
        hint=f"Pass {above}." if number == errno.EACCES else f"Pass {address}, and {above}.",
    )
