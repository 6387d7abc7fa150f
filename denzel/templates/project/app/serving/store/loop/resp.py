"""RESP3, the protocol of Redis, on a socket of an event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from hiredis import ProtocolError, Reader, pack_command
from redis import exceptions

log = logging.getLogger(__name__)

#: A command's name or argument.
Word = str | bytes | int | float

#: A command in bytes. (hiredis' stub has a tuple of one.)
pack: Callable[[tuple[Word, ...]], bytes] = pack_command  # type: ignore[assignment]

_ERRORS = {
    "LOADING": exceptions.BusyLoadingError,
    "NOAUTH": exceptions.AuthenticationError,
    "NOSCRIPT": exceptions.NoScriptError,
    "OOM": exceptions.OutOfMemoryError,
    "READONLY": exceptions.ReadOnlyError,
    "WRONGPASS": exceptions.AuthenticationError,
}
_INCOMPLETE = object()


class Owner(Protocol):
    """The user of a socket."""

    def opened(self, opened: Socket) -> None:
        """The socket can be written to."""

    def received(self, source: Socket, replies: list[Any]) -> None:
        """Replies came, error replies as RedisErrors, and pushed messages as hiredis.PushNotifications."""

    def closed(self, closed: Socket) -> None:
        """The socket is closed, by whichever side."""


class Socket(asyncio.Protocol):
    """One socket, for as long as it is open."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._reader = Reader(encoding="utf-8", errors="replace", replyError=_error, notEnoughData=_INCOMPLETE)
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        opened: socket.socket | None = transport.get_extra_info("socket")
        if opened is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        replies = []
        gets = self._reader.gets
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _INCOMPLETE:
                replies.append(reply)
        except ProtocolError as error:
            log.warning("Redis sent what cannot be read: %s", error)
            self.abort()
        self._owner.received(self, replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.closed(self)

    def write(self, data: bytes) -> None:
        """Send bytes at the end of this turn of the loop, together with what others send in it."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self._transport.is_closing():
            self._transport.writelines(unsent)

    def abort(self) -> None:
        self._transport.abort()


def setup(options: dict[str, Any]) -> bytes:
    """The commands that begin a connection with these options of redis-py."""
    hello: list[str] = ["HELLO", "3"]
    if options.get("password"):
        hello += ["AUTH", options.get("username") or "default", options["password"]]
    if options.get("client_name"):
        hello += ["SETNAME", options["client_name"]]
    return pack(tuple(hello)) + pack(("SELECT", options.get("db") or 0))


def subscription(channels: Iterable[str]) -> bytes:
    """A subscription to these channels, and a PING: alone, it has no reply but an error."""
    names = sorted(channels)
    return (pack(("SUBSCRIBE", *names)) if names else b"") + pack(("PING",))


def _error(reply: str) -> exceptions.RedisError:
    """redis-py's exception for an error reply."""
    return _ERRORS.get(reply.partition(" ")[0], exceptions.ResponseError)(reply)
