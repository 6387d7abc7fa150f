"""Callbacks: the results of ended tasks, sent to their `callback_uri`. Run as `python -m app.callbacks`.

A process of its own, beside the predicting ones, so that no receiver can delay or fail a prediction.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from redis import Redis, RedisError

from app import keys
from app.broker import connect
from app.deadlines import session
from app.records import SUCCESS, TaskRecord, TaskRecords
from app.settings import Settings

log = logging.getLogger(__name__)

#: Callbacks sent at the same time, at most.
IN_FLIGHT = 64

#: Seconds between two looks at whether this process should end.
POLL = 1


def body(task_id: str, record: TaskRecord) -> dict[str, Any]:
    """What a receiver gets: the dict that predict returned, or the failure with the task's id."""
    if record.status == SUCCESS and isinstance(record.result, dict):
        return record.result
    return {"status": record.status, "result": record.result, "task_id": task_id}


class CallbackSender:
    """Takes ended tasks from Redis and posts each result once, many at a time."""

    def __init__(self, redis: Redis, *, timeout: float) -> None:
        self._redis = redis
        self._records = TaskRecords(redis)
        self._timeout = timeout
        self._room = threading.BoundedSemaphore(IN_FLIGHT)
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="callback")

    def run(self, stopping: threading.Event) -> None:
        """Send callbacks until `stopping` is set; those on their way are finished first."""
        while not stopping.is_set():
            if not self._room.acquire(timeout=POLL):
                continue
            task_id = self._next()
            if task_id is None:
                self._room.release()
            else:
                self._pool.submit(self._send, task_id)
        self._pool.shutdown()

    def _next(self) -> str | None:
        try:
            taken: Any = self._redis.brpop([keys.CALLBACKS], timeout=POLL)
        except RedisError as error:
            log.warning("cannot read callbacks, trying again: %s", error)
            time.sleep(POLL)
            return None
        return taken[1] if taken else None

    def _send(self, task_id: str) -> None:
        try:
            record = self._records.find(task_id)
            if record is None or record.callback_uri is None:
                return
            self.post(task_id, record)
            log.info("callback of task %s delivered to %s", task_id, record.callback_uri)
        except (requests.RequestException, RedisError, ValueError) as error:
            log.warning("callback of task %s not delivered: %s", task_id, error)
        finally:
            self._room.release()

    def post(self, task_id: str, record: TaskRecord) -> None:
        """One POST of the result; raises requests.RequestException unless the receiver answers with a 2xx status."""
        assert record.callback_uri is not None
        with (
            session() as http,
            http.post(
                record.callback_uri,
                data=json.dumps(body(task_id, record)),
                headers={"Content-Type": "application/json", "User-Agent": "denzel", "webhook-id": task_id},
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as answer,
        ):
            if not 200 <= answer.status_code < 300:
                raise requests.HTTPError(f"{record.callback_uri} answered {answer.status_code}")


def main() -> None:
    """Send callbacks until told to stop by SIGTERM, or until the worker that started this process is gone."""
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s: %(levelname)s/Callbacks] %(message)s")
    settings = Settings.from_environment(os.environ)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = os.getppid()

    def end_with_worker() -> None:
        while os.getppid() == worker:
            time.sleep(POLL)
        stopping.set()

    threading.Thread(target=end_with_worker, daemon=True).start()
    CallbackSender(connect(settings.redis_url), timeout=settings.callback_timeout).run(stopping)


if __name__ == "__main__":
    main()
