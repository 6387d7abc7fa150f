"""A clock that moves only when a test moves it."""

from __future__ import annotations


class Clock:
    """A `clock` and a `sleep` in seconds: time passes during a sleep, or when `now` is set."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
