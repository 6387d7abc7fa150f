"""Waiting in tests: for a condition, with a deadline, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def until(condition: Callable[[], Seen], *, within: float = 30, what: str = "") -> Seen:
    """The first true value of `condition`; fails, naming `what`, when none comes `within` so many seconds."""
    deadline = time.monotonic() + within
    while True:
        seen = condition()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within} s for {what or condition}; the last value was {seen!r}")
        time.sleep(0.05)
