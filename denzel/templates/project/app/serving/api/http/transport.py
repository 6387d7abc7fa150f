"""Transport for responses: one write for head and body, and a lingering close that leaves the client time to read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class CoalescingTransport:
    """Wrapper that sends in one write all that is written in one turn of the event loop: a response's head and body.

    `close` implements its `close()`: with `half_close`, after which the client may still send, or with `close_now`.
    All else is the wrapped transport's.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, close: Callable[[], None] | None = None
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._close = close or self.close_now
        self._parts: list[bytes] = []
        self._is_half_closed = False

    def write(self, data: bytes) -> None:
        if self._is_half_closed:
            return
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._close()

    def is_closing(self) -> bool:
        return self._is_half_closed or self._transport.is_closing()

    def half_close(self) -> None:
        """Flush, then close the writing side alone: the client reads the end of the stream, and may still send."""
        self._flush()
        self._is_half_closed = True
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close_now(self) -> None:
        """Flush, then close both sides."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        # The client may be gone by now, and uvloop then raises.
        if self._parts and not self._transport.is_closing():
            data = b"".join(self._parts)
            self._parts.clear()
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


#: Bytes that a client may still send behind its response, and seconds (as nginx' `lingering_time`).
MAX_LINGER_BYTES = 100 * 1024 * 1024
LINGER_TIMEOUT = 30


class LingeringClose:
    """Limit on the input that is discarded behind a response: `close` is called at either bound."""

    def __init__(self, loop: asyncio.AbstractEventLoop, close: Callable[[], None]) -> None:
        self._close = close
        self._bytes_left = MAX_LINGER_BYTES
        self._timer = loop.call_later(LINGER_TIMEOUT, close)

    def discard(self, data: bytes) -> None:
        """Count this input."""
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self._close()

    def cancel(self) -> None:
        """Stop the timer: the input ended within the bounds."""
        self._timer.cancel()
