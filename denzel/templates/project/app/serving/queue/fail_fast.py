"""Fail-fast guard for requests while Redis is silent: one time-out for all that wait, not one each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from redis.exceptions import TimeoutError as SilentBroker

from app.serving.store.connection import Answer


class FailFast:
    """How long requests wait for a Redis that neither answers nor refuses: each for one time-out and no other's.

    Those that wait behind one that met the silence are told of it at once; asking for each would take minutes.
    """

    def __init__(self) -> None:
        self._silent_at = -math.inf

    def check(self, since: float) -> None:
        """Raise for a request that waits since this moment (time.monotonic()), if Redis was silent after it."""
        if since <= self._silent_at:
            raise SilentBroker("Redis did not answer a request before this one")

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """What Redis answers; its silence is noted."""
        try:
            return question()
        except SilentBroker:
            self._silent_at = time.monotonic()
            raise
