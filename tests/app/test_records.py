"""app/records.py: the life of a task's record in Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis, RedisError

from app import keys
from app.records import ENDED, QueueFull, TaskRecord, TaskRecords
from app.settings import ResponseMode

TASK = "11111111-1111-1111-1111-111111111111"
URI = "http://receiver.example/stash"


@pytest.fixture
def records(broker: Redis) -> TaskRecords:
    return TaskRecords(broker)


def accept(
    records: TaskRecords, task_id: str = TASK, *, uri: str | None = None, limit: int = 10
) -> ResponseMode | None:
    return records.accept(task_id, f"message of {task_id}", callback_uri=uri, queue_limit=limit)


def test_an_accepted_task_is_on_record_and_on_the_queue(records: TaskRecords, redis: Redis) -> None:
    accept(records, uri=URI)
    assert records.find(TASK) == TaskRecord(status="PENDING", callback_uri=URI)
    assert redis.lrange(keys.QUEUE, 0, -1) == [f"message of {TASK}"]


def test_tasks_leave_the_queue_in_the_order_they_came(records: TaskRecords, redis: Redis) -> None:
    for task_id in "abc":
        accept(records, task_id)
    assert [redis.rpop(keys.QUEUE) for _ in "abc"] == ["message of a", "message of b", "message of c"]


def test_accepting_the_same_task_again_changes_nothing(records: TaskRecords, redis: Redis) -> None:
    accept(records, uri=URI)
    records.start(TASK)
    accept(records, uri="http://other.example")
    assert records.find(TASK) == TaskRecord(status="STARTED", callback_uri=URI)
    assert redis.llen(keys.QUEUE) == 1


def test_a_full_queue_stores_nothing(records: TaskRecords, redis: Redis) -> None:
    for task_id in "ab":
        accept(records, task_id, limit=2)
    before = sorted(redis.keys())
    with pytest.raises(QueueFull):
        accept(records, "c", limit=2)
    assert sorted(redis.keys()) == before
    assert records.find("c") is None
    assert redis.llen(keys.QUEUE) == 2


def test_a_repeated_accept_of_a_task_in_a_queue_now_full_is_no_error(records: TaskRecords, redis: Redis) -> None:
    accept(records, "a", limit=1)
    accept(records, "a", limit=1)
    assert redis.llen(keys.QUEUE) == 1


def test_the_bound_holds_when_many_accept_at_the_same_time(records: TaskRecords, redis: Redis) -> None:
    full = []

    def accept_some(name: int) -> None:
        for index in range(10):
            try:
                accept(records, f"{name}-{index}", limit=25)
            except QueueFull:
                full.append(name)

    threads = [threading.Thread(target=accept_some, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert redis.llen(keys.QUEUE) == 25
    assert len(full) == 8 * 10 - 25


def test_accepting_tells_how_the_deployment_answers_now(records: TaskRecords, redis: Redis) -> None:
    assert accept(records, "a") is None
    redis.hset(keys.RESPONSE, mapping={"mode": "sync", "timeout": "2.5"})
    assert accept(records, "b") == ResponseMode(synchronous=True, timeout=2.5)
    redis.hset(keys.RESPONSE, mapping={"mode": "async", "timeout": "2.5"})
    assert accept(records, "b") == ResponseMode(synchronous=False, timeout=2.5)
    redis.delete(keys.RESPONSE)
    assert accept(records, "c") is None


def test_every_method_is_one_round_trip(records: TaskRecords, redis: Redis) -> None:
    life: dict[str, Callable[[], Any]] = {
        "accept": lambda: accept(records, uri=URI),
        "start": lambda: records.start(TASK),
        "end": lambda: records.end(TASK, "SUCCESS", {"a": 1}, lifetime=60),
        "find": lambda: records.find(TASK),
    }
    for step in life.values():  # the server now has the scripts and the connection is made
        step()
    redis.flushdb()
    trips = {}
    for name, step in life.items():
        with counted_commands(redis) as commands:
            step()
        trips[name] = commands
    assert trips == {"accept": ["evalsha"], "start": ["evalsha"], "end": ["evalsha"], "find": ["hgetall"]}


@contextmanager
def counted_commands(redis: Redis) -> Iterator[list[str]]:
    """The commands that clients, not scripts, send to the server in this block."""
    commands: list[str] = []
    with redis.monitor() as monitor:
        yield commands
        redis.echo("the end of the block")
        for seen in monitor.listen():
            if seen["command"].startswith("ECHO"):
                return
            command = seen["command"].split()[0].lower()
            if seen["client_type"] != "lua" and command not in ("hello", "client"):  # those set a connection up
                commands.append(command)


def test_a_started_task_says_so(records: TaskRecords) -> None:
    accept(records)
    records.start(TASK)
    assert records.find(TASK) == TaskRecord(status="STARTED")


@pytest.mark.parametrize("result", [{"a123": "Iris-setosa"}, {}, {"naïve": [1.5, None, True, "☃\ud800"]}])
def test_an_ended_task_has_its_result(records: TaskRecords, result: Any) -> None:
    accept(records)
    records.start(TASK)
    records.end(TASK, "SUCCESS", result, lifetime=60)
    assert records.find(TASK) == TaskRecord(status="SUCCESS", result=result)


def test_a_record_has_ended_in_three_states_only(records: TaskRecords) -> None:
    states = ["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]
    assert [state for state in states if TaskRecord(status=state).ended] == ["SUCCESS", "FAILURE", "REVOKED"]
    assert {"SUCCESS", "FAILURE", "REVOKED"} == ENDED


def test_an_ended_task_cannot_be_started(records: TaskRecords) -> None:
    accept(records)
    records.end(TASK, "SUCCESS", {"a": 1}, lifetime=60)
    records.start(TASK)
    assert records.find(TASK) == TaskRecord(status="SUCCESS", result={"a": 1})


def test_the_first_end_stands(records: TaskRecords, redis: Redis) -> None:
    accept(records, uri=URI)
    records.end(TASK, "SUCCESS", {"a": 1}, lifetime=60)
    records.end(TASK, "FAILURE", {"args": ["too late"]}, lifetime=60)
    assert records.find(TASK) == TaskRecord(status="SUCCESS", result={"a": 1}, callback_uri=URI)
    assert redis.lrange(keys.CALLBACKS, 0, -1) == [TASK]


def test_a_record_expires_only_after_its_end(records: TaskRecords, redis: Redis) -> None:
    accept(records)
    assert redis.ttl(keys.task(TASK)) == -1
    records.start(TASK)
    assert redis.ttl(keys.task(TASK)) == -1
    records.end(TASK, "SUCCESS", {}, lifetime=60)
    assert 0 < int(redis.ttl(keys.task(TASK))) <= 60


def test_an_expired_record_is_not_found(records: TaskRecords, redis: Redis) -> None:
    accept(records)
    records.end(TASK, "SUCCESS", {}, lifetime=60)
    redis.pexpire(keys.task(TASK), 0)
    assert records.find(TASK) is None


def test_the_end_is_announced_and_its_callback_queued_in_the_same_step(records: TaskRecords, redis: Redis) -> None:
    """Whoever hears of the end finds the result and the callback there already."""
    accept(records, uri=URI)
    with redis.pubsub() as channel:
        channel.subscribe(keys.ENDED)
        channel.get_message(timeout=5)
        with counted_commands(redis) as commands:
            records.end(TASK, "FAILURE", {"args": ["no"]}, lifetime=60)
        announced = channel.get_message(timeout=5)
    assert commands == ["evalsha"]
    assert announced is not None
    assert announced["data"] == TASK
    assert redis.lrange(keys.CALLBACKS, 0, -1) == [TASK]


def test_a_task_without_a_callback_queues_none(records: TaskRecords, redis: Redis) -> None:
    accept(records)
    records.end(TASK, "SUCCESS", {}, lifetime=60)
    assert redis.exists(keys.CALLBACKS) == 0


def test_an_id_never_accepted_is_not_found(records: TaskRecords) -> None:
    for task_id in ("never", "", "\ud7ff*", "a:b"):
        assert records.find(task_id) is None


def test_every_method_raises_when_redis_is_away(away: Redis) -> None:
    records = TaskRecords(away)
    attempts: list[Callable[[], Any]] = [
        lambda: accept(records),
        lambda: records.start(TASK),
        lambda: records.end(TASK, "SUCCESS", {}, lifetime=60),
        lambda: records.find(TASK),
    ]
    for attempt in attempts:
        with pytest.raises(RedisError):
            attempt()


def test_a_server_that_lost_its_scripts_gets_them_again(records: TaskRecords, redis: Redis) -> None:
    """As after a restart of Redis."""
    accept(records, "a")
    redis.script_flush()
    accept(records, "b")
    assert redis.llen(keys.QUEUE) == 2
