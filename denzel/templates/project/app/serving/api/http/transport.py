"""What an answer is written to: one packet for its head and body, and an end that leaves the client time to read it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class CoalescingTransport:
    """A connection that sends what is written in one turn of the event loop in one go: an answer's head and its body.

    `close` says how it is closed: with `end`, after which the client may still send, or with `cut`. The rest is the
    transport's own.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, close: Callable[[], None] | None = None
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._close = close or self.cut
        self._parts: list[bytes] = []
        self._has_ended = False

    def write(self, data: bytes) -> None:
        if self._has_ended:
            return
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._close()

    def is_closing(self) -> bool:
        return self._has_ended or self._transport.is_closing()

    def end(self) -> None:
        """Write no more; the client sees the end behind what was written."""
        self._flush()
        self._has_ended = True
        if not self._transport.is_closing():
            self._transport.write_eof()

    def cut(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        # The client may have gone meanwhile, and uvloop then raises.
        if self._parts and not self._transport.is_closing():
            joined = b"".join(self._parts)
            self._parts.clear()
            self._transport.write(joined)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


#: Bytes that are dropped at most, and seconds for which they are.
MAX_LINGER_BYTES = 100 * 1024 * 1024


LINGER_TIMEOUT = 30


class LingeringClose:
    """Counts what comes on one connection from now on, and calls `cut` at either bound."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cut: Callable[[], None]) -> None:
        self._cut = cut
        self._left = MAX_LINGER_BYTES
        self._timer = loop.call_later(LINGER_TIMEOUT, cut)

    def drop(self, data: bytes) -> None:
        """Note that this came."""
        self._left -= len(data)
        if self._left < 0:
            self._cut()

    def end(self) -> None:
        """Nothing more is to be dropped."""
        self._timer.cancel()
