"""What a client still sends of a request that was answered already: dropped, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: Bytes that are dropped at most, and seconds for which they are.
MOST_BYTES = 100 * 1024 * 1024
LONGEST = 30


class Leftovers:
    """Counts what comes on one connection from now on, and calls `cut` at either bound."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cut: Callable[[], None]) -> None:
        self._cut = cut
        self._left = MOST_BYTES
        self._timer = loop.call_later(LONGEST, cut)

    def drop(self, data: bytes) -> None:
        """Note that this came."""
        self._left -= len(data)
        if self._left < 0:
            self._cut()

    def end(self) -> None:
        """Nothing more is to be dropped."""
        self._timer.cancel()
