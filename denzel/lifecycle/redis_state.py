"""A project's state in Redis: keys to delete at a start, and unfinished work that a purge would lose."""

from __future__ import annotations

import time

from denzel.backends.base import Backend
from denzel.errors import ServiceNotRunning
from denzel.services import QUEUE_KEY, UNACKED_KEY, UNDELIVERED_KEY, Service, State
from denzel.text import pluralize

#: Seconds to wait for an answer of a Redis that has just started. With much data it takes longer, and is not awaited.
_START_TIMEOUT = 10


def forget(backend: Backend, *keys: str) -> None:
    """Delete keys in a Redis that may still be starting; without effect when it does not answer in time."""
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            backend.redis("DEL", *keys)
        except ServiceNotRunning:
            if backend.services()[Service.REDIS].state in (State.DOWN, State.ERROR) or time.monotonic() > deadline:
                return
            time.sleep(0.1)
        else:
            return


def loss(backend: Backend) -> str:
    """A question that names what a purge would lose; empty when that is nothing."""
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
