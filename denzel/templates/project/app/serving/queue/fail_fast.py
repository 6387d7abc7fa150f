"""Fail-fast guard while Redis does not respond: one time-out for all requests that wait, not one each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import TimeoutError as RedisTimeout

Answer = TypeVar("Answer")


class FailFast:
    """A limit of one time-out on how long a request waits for a Redis that neither responds nor refuses.

    Requests that were queued before a time-out fail at once: to try each would take minutes.
    """

    def __init__(self) -> None:
        self._timed_out_at = -math.inf

    def check(self, since: float) -> None:
        """Raise for a request that waits since this moment (time.monotonic()), if Redis timed out after it."""
        if since <= self._timed_out_at:
            raise RedisTimeout("Redis did not answer a request before this one")

    def call(self, command: Callable[[], Answer]) -> Answer:
        """The answer of Redis to `command`; a time-out is recorded, and raised."""
        try:
            return command()
        except RedisTimeout:
            self._timed_out_at = time.monotonic()
            raise
