"""Waiting for tasks to end: one connection listens for the whole process, however many requests wait."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis, RedisError

from app import keys

log = logging.getLogger(__name__)

#: Seconds between two tries to listen again when Redis was away.
RECONNECT_AFTER = 1.0


class Completions:
    """Wakes whoever waits for a task when its end is announced. The listening thread starts with the first wait."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._lock = threading.Lock()
        self._waiting: defaultdict[str, list[threading.Event]] = defaultdict(list)
        self._listener: threading.Thread | None = None

    @contextmanager
    def expect(self, task_id: str) -> Iterator[threading.Event]:
        """An event that is set when `task_id` ends, or when the listener may have missed that: look it up then."""
        event = threading.Event()
        with self._lock:
            self._waiting[task_id].append(event)
            if self._listener is None:
                self._listener = threading.Thread(target=self._listen, name="completions", daemon=True)
                self._listener.start()
        try:
            yield event
        finally:
            with self._lock:
                self._waiting[task_id].remove(event)
                if not self._waiting[task_id]:
                    del self._waiting[task_id]

    def _listen(self) -> None:
        while True:
            try:
                with self._redis.pubsub() as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(keys.ENDED)
                    while True:
                        self._receive(channel.get_message(timeout=None))
            except RedisError as error:
                log.warning("cannot listen for ended tasks, trying again: %s", error)
                time.sleep(RECONNECT_AFTER)

    def _receive(self, message: dict[str, object] | None) -> None:
        if message is None:
            return
        with self._lock:
            if message["type"] == "subscribe":
                woken = [event for events in self._waiting.values() for event in events]
            else:
                woken = [
                    event
                    for task_id, *_ in json.loads(str(message["data"]))
                    for event in self._waiting.get(task_id, ())
                ]
        for event in woken:
            event.set()
