"""Memory that a predicting process holds, and its limit, WORKER_MAX_MB."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

#: Seconds between two looks at the memory of the process.
MEMORY_CHECK_INTERVAL = 0.1


def memory_check(max_mb: float | None) -> Callable[[], bool]:
    """A function that is False once this process holds more memory than this, in MB (2**20 bytes)."""
    if max_mb is None:
        return lambda: True
    checked_at, is_within = 0.0, True

    def check() -> bool:
        nonlocal checked_at, is_within
        if time.monotonic() - checked_at >= MEMORY_CHECK_INTERVAL:
            checked_at, is_within = time.monotonic(), memory_mb() <= max_mb
            if not is_within:
                log.info("the process holds more than WORKER_MAX_MB, %g MB: it is replaced", max_mb)
        return is_within

    return check


def memory_mb(statm: Path = Path("/proc/self/statm")) -> float:
    """The memory that this process holds, in MB; its peak where there is no /proc."""
    with suppress(OSError):
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    # In kilobytes on Linux, in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
