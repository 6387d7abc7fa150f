"""Events of Celery as a dashboard receives them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from celery import Celery


@contextmanager
def dashboard(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """The events that a dashboard gets until the end of the block."""
    got: list[dict[str, Any]] = []
    is_over, is_listening = threading.Event(), threading.Event()

    def receive() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": got.append})
            with receiver.consumer_context() as (clone, *_):
                while not is_over.is_set():
                    with suppress(TimeoutError):
                        clone.drain_events(timeout=0.2)
                    is_listening.set()

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        assert is_listening.wait(20)
        yield got
    finally:
        is_over.set()
        thread.join(20)
