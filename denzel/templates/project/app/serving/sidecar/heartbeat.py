"""Heartbeat of the sidecar: a byte in a pipe for each turn of the loop that sends callbacks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

#: Checks in a row without a beat after which the process hangs. Checks are counted, and not seconds: when the machine
#: slept, or the monitor was stopped itself, the next check finds the beats written in the meantime.
MAX_MISSED = 5

#: Seconds between two checks that count.
BEAT_CHECK_INTERVAL = 4.0

#: The most bytes that a pipe holds: one check reads all of them.
_PIPE = 1 << 16


class HeartbeatWriter:
    """Writes beats to `output`. No reader is needed, and no beat waits for one."""

    def __init__(self, output: int) -> None:
        os.set_blocking(output, False)
        self._output = output

    def beat(self) -> None:
        """Write a beat: the loop goes on."""
        # The pipe is full while nobody reads, and broken when nobody will.
        with suppress(OSError):
            os.write(self._output, b".")


class HeartbeatMonitor:
    """Reads beats from `source`. A missed beat counts when one `is_expected`."""

    def __init__(
        self, source: IO[bytes], is_expected: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        os.set_blocking(source.fileno(), False)
        self._source = source
        self._is_expected = is_expected
        self._clock = clock
        self._checked_at = clock()
        self._missed = 0

    def is_overdue(self) -> bool:
        """True when so many beats were missed that the process hangs; to be called every few seconds."""
        if self._clock() - self._checked_at >= BEAT_CHECK_INTERVAL:
            self._checked_at = self._clock()
            self._missed = 0 if self._read() or not self._is_expected() else self._missed + 1
        return self._missed >= MAX_MISSED

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _read(self) -> bool:
        try:
            return bool(os.read(self._source.fileno(), _PIPE))
        except BlockingIOError:
            return False
