"""Exponential back-off: the pauses between tries of what must succeed in the end."""

from __future__ import annotations

from collections.abc import Iterator


def pauses(first: float, longest: float) -> Iterator[float]:
    """Seconds to wait before each next try, without end: `first`, then twice as long each time, `longest` at most."""
    pause = first
    while True:
        yield pause
        pause = min(2 * pause, longest)
