"""Fixtures of the worker's tests: accepted tasks, pipelines of the tests' own, and a way to Redis that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from doubles.flaky_redis import FlakyRedis, flaky_redis
from redis import Redis
from support.worker import LIMITS

from app.serving.store.claims import Claims, new_owner
from app.serving.store.messages import QueuedTask, parse, task_message
from app.serving.store.tasks import TaskStore
from app.serving.worker.batching.scoreboard import Slot, make_slots


@pytest.fixture
def accept(records: TaskStore) -> Callable[..., None]:
    """Accepts tasks with these ids and inputs: accept(a=1, b=2)."""

    def enqueue(**inputs: Any) -> None:
        for task_id, one in inputs.items():
            records.enqueue(task_id, task_message(task_id, one), callback_uri=None, queue_limit=1000)

    return enqueue


@pytest.fixture
def claims(broker: Redis) -> Claims:
    return Claims(broker, LIMITS, new_owner())


@pytest.fixture
def taken(accept: Callable[..., None], claims: Claims) -> Callable[..., list[QueuedTask]]:
    """Accepts these tasks, and takes them: taken(a=1, b=2)."""

    def take(**inputs: Any) -> list[QueuedTask]:
        accept(**inputs)
        return [parse(one.message, one.since) for one in claims.take(limit=len(inputs)).claimed]

    return take


@pytest.fixture
def slot() -> Slot:
    return make_slots(1, 64)[0]


@pytest.fixture
def flaky(redis_url: str) -> Iterator[FlakyRedis]:
    with flaky_redis(redis_url) as proxy:
        yield proxy
