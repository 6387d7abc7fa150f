"""What a project has in Redis, as far as a change of it forgets that or would lose it."""

from __future__ import annotations

import time

from denzel.backends.base import Backend
from denzel.errors import ServiceNotRunning
from denzel.services import QUEUE_KEY, UNACKED_KEY, UNDELIVERED_KEY, Service, State
from denzel.text import pluralize

#: Seconds that a Redis which was just started may take to answer. One with much data takes longer, and is left to it.
_STARTS_WITHIN = 10


def forget(backend: Backend, *keys: str) -> None:
    """Remove these keys of Redis, which may have been started a moment ago."""
    ends = time.monotonic() + _STARTS_WITHIN
    while True:
        try:
            backend.redis("DEL", *keys)
        except ServiceNotRunning:
            if backend.services()[Service.REDIS].state in (State.DOWN, State.ERROR) or time.monotonic() > ends:
                return
            time.sleep(0.1)
        else:
            return


def loss(backend: Backend) -> str:
    """What a purge would lose, as a question; empty when nothing."""
    if not backend.holds_data():
        return ""
    try:
        counts = [backend.redis("LLEN", QUEUE_KEY), backend.redis("HLEN", UNACKED_KEY)]
        callbacks = backend.redis("ZCARD", UNDELIVERED_KEY)
    except ServiceNotRunning:
        return "Redis is not running, so it may hold unfinished tasks. Remove its data?"
    if sum(counts) + callbacks == 0:
        return ""
    stored = f"{pluralize(sum(counts), 'unfinished task')} and {pluralize(callbacks, 'unsent callback')}"
    return f"{stored} are stored. Remove them?"
