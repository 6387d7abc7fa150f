"""Limit of the memory that a predicting process holds, WORKER_MAX_MB."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from app.serving.memory import memory_mb

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
