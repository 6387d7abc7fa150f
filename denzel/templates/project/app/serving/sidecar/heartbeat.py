"""The heartbeat of the process beside a worker: a byte in a pipe for each turn of the loop that sends callbacks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

#: Looks in a row at which nothing was heard, after which the process hangs. They are counted, and not the time: when
#: the machine slept, or the listener was stopped itself, it looks once and hears what was said meanwhile.
MISSED = 5

#: Seconds between two looks that count.
LOOK_EVERY = 4.0

#: Bytes that a pipe holds, at most: one look hears everything.
_PIPE = 1 << 16


class HeartbeatWriter:
    """Beats into `output`. Nobody needs to listen, and no beat waits for that."""

    def __init__(self, output: int) -> None:
        os.set_blocking(output, False)
        self._output = output

    def beat(self) -> None:
        """Say that the work goes on."""
        # The pipe is full while nobody listens, and broken when nobody will.
        with suppress(OSError):
            os.write(self._output, b".")


class HeartbeatMonitor:
    """What is heard at the other end, `source`. Beats that are missed count while `has_no_excuse` says so."""

    def __init__(
        self, source: IO[bytes], has_no_excuse: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        os.set_blocking(source.fileno(), False)
        self._source = source
        self._has_no_excuse = has_no_excuse
        self._clock = clock
        self._looked_at = clock()
        self._missed = 0

    def has_stopped(self) -> bool:
        """Whether nothing was heard for so long that the process hangs; to be asked every few seconds."""
        if self._clock() - self._looked_at >= LOOK_EVERY:
            self._looked_at = self._clock()
            self._missed = 0 if self._heard() or not self._has_no_excuse() else self._missed + 1
        return self._missed >= MISSED

    def close(self) -> None:
        """Listen no more."""
        self._source.close()

    def _heard(self) -> bool:
        try:
            return bool(os.read(self._source.fileno(), _PIPE))
        except BlockingIOError:
            return False
