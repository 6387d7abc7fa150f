"""Waiting in tests, for a condition with a deadline and never for a time; calls at the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Seen = TypeVar("Seen")
Returned = TypeVar("Returned")


def until(condition: Callable[[], Seen], *, within: float = 30, what: str = "") -> Seen:
    """The first true value of `condition`; fails, naming `what`, when none comes `within` so many seconds."""
    deadline = time.monotonic() + within
    while True:
        began = time.monotonic()
        seen = condition()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within} s for {what or condition}; the last value was {seen!r}")
        # A condition that costs processor time is asked for less often: what it waits for needs that time.
        time.sleep(max(0.05, min(0.3, time.monotonic() - began)))


def in_threads(number: int, function: Callable[[int], Returned]) -> list[Returned]:
    """The values of `function` for 0, 1, 2, ..., called at the same moment, each in a thread."""
    together = threading.Barrier(number)

    def call(index: int) -> Returned:
        together.wait(10)
        return function(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(call, range(number)))
