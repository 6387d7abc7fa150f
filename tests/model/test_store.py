"""Claims, records, outbox and dead letters: random stories on a real server, beside a reference in Python."""

from __future__ import annotations

from model.machine import run
from model.virtual_time import virtual_time

from app.serving.store.connection import connect


def test_the_store_does_what_the_reference_does(redis_url: str) -> None:
    """In the end all has ended, and every callback is delivered or listed."""
    with virtual_time(), connect(redis_url) as redis:
        run(redis, range(5))
