"""settlements.py: what is to be written about tasks of dead processes, kept while Redis is away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from doubles.flaky_redis import FlakyRedis
from redis import Redis
from support.records import failed, record_of
from support.worker import LIMITS

from app.serving.store import keys
from app.serving.store.claims import Claims
from app.serving.store.connection import connect
from app.serving.store.messages import QueuedTask
from app.serving.store.tasks import PENDING, TaskStore
from app.serving.worker.settlements import Settlements

Taken = Callable[..., list[QueuedTask]]


@pytest.fixture
def settlements(flaky: FlakyRedis) -> Iterator[Settlements]:
    with connect(flaky.url) as client:
        yield Settlements(partial(Claims, client, LIMITS), TaskStore(client), ttl=60, time_limit=7)


def deliveries(redis: Redis, ids: str) -> list[str | None]:
    return [redis.hget(keys.task(task_id), "deliveries") for task_id in ids]


def test_a_death_counts_for_its_suspects_and_requeues_all(
    settlements: Settlements, taken: Taken, claims: Claims, redis: Redis
) -> None:
    taken(a=1, b=2, c=3)
    settlements.died(claims.owner, ["b"])
    assert settlements.flush() == []
    assert (deliveries(redis, "abc"), redis.llen(keys.QUEUE)) == (["0", "1", "0"], 3)
    assert not redis.exists(keys.OWNERS)


def test_the_last_death_ends_the_task_and_is_returned(settlements: Settlements, taken: Taken, claims: Claims) -> None:
    taken(a=1)
    for _ in range(LIMITS.deliveries - 1):
        settlements.died(claims.owner, ["a"])
        assert settlements.flush() == []
        claims.take(limit=1)
    settlements.died(claims.owner, ["a"])
    (dead,) = settlements.flush()
    assert dead == ("a", "the worker died while running this task, 3 times")
    assert settlements.flush() == []


def test_a_task_that_took_too_long_has_failed_and_the_others_of_its_process_are_requeued(
    settlements: Settlements, taken: Taken, claims: Claims, records: TaskStore, redis: Redis
) -> None:
    taken(a=1, b=2)
    settlements.died(claims.owner, [], overdue="a")
    settlements.flush()
    too_long = failed("TimeLimitExceeded", "the task took longer than TASK_TIME_LIMIT, 7 s")
    assert record_of(records, "a").result == too_long
    assert (record_of(records, "b").status, deliveries(redis, "b")) == (PENDING, ["0"])


def test_tasks_of_a_living_process_are_requeued_alone(
    settlements: Settlements, taken: Taken, claims: Claims, redis: Redis
) -> None:
    taken(a=1, b=2, c=3)
    settlements.requeue(claims.owner, 0, ["b", "c"])
    settlements.requeue(claims.owner, 0, [])
    settlements.flush()
    assert (redis.hkeys(keys.OWNERS), redis.llen(keys.QUEUE)) == (["a"], 2)


def test_a_late_requeue_does_not_take_from_a_living_process_what_it_has_taken_anew(
    settlements: Settlements, taken: Taken, claims: Claims, redis: Redis, flaky: FlakyRedis
) -> None:
    taken(a=1)
    flaky.go_away()
    settlements.requeue(claims.owner, 0, ["a"])
    assert settlements.flush() == []
    flaky.come_back()
    claims.requeue_all()
    claims.epoch += 1
    claims.take(limit=1)
    settlements.flush()
    assert (redis.hkeys(keys.OWNERS), redis.llen(keys.QUEUE)) == (["a"], 0)


def test_a_requeue_waits_for_redis(
    settlements: Settlements, taken: Taken, claims: Claims, redis: Redis, flaky: FlakyRedis
) -> None:
    taken(a=1, b=2)
    flaky.go_away()
    settlements.requeue(claims.owner, 0, ["b"])
    assert settlements.flush() == []
    flaky.come_back()
    settlements.flush()
    assert (redis.hkeys(keys.OWNERS), redis.llen(keys.QUEUE)) == (["a"], 1)


def test_no_death_is_forgotten_while_redis_is_away(
    settlements: Settlements,
    taken: Taken,
    claims: Claims,
    redis: Redis,
    flaky: FlakyRedis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken(a=1, b=2, c=3)
    flaky.go_away()
    settlements.died(claims.owner, ["a"])
    assert settlements.flush() == []
    # Meanwhile its lease is to be renewed, so that nobody else counts the death.
    assert settlements.owners == [claims.owner]
    flaky.come_back()
    settlements.flush()
    assert (deliveries(redis, "abc"), settlements.owners) == (["1", "0", "0"], [])
    assert not redis.exists(keys.OWNERS)
    assert "tasks could not be settled, trying again" in caplog.text
