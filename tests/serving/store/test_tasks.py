"""tasks.py: states of a task's record in Redis."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis, RedisError
from redis.connection import Connection
from redis.exceptions import OutOfMemoryError
from support.records import record_of
from support.redis_server import counted_commands, redis_server
from support.waiting import in_threads

from app.serving.callback_uri import endpoint_of
from app.serving.settings import ResponseMode
from app.serving.store import keys, scripts
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.connection import connect
from app.serving.store.messages import task_message
from app.serving.store.outbox import AttemptResult, Outbox
from app.serving.store.tasks import (
    TERMINAL_STATES,
    CallbackReport,
    Completion,
    Idempotency,
    KeyReused,
    NewTask,
    QueueFull,
    TaskRecord,
    TaskStore,
    accept_arguments,
)

TASK = "11111111-1111-1111-1111-111111111111"
URI = "http://receiver.example/stash"
KEY = Idempotency(key="digest-of-the-key", body="digest-of-the-body")
OTHER_BODY = Idempotency(key=KEY.key, body="digest-of-another-body")
EXPECTED = CallbackReport(state="PENDING")


MemoryFull = Callable[[], AbstractContextManager[None]]


def accept(
    records: TaskStore,
    task_id: str = TASK,
    *,
    uri: str | None = None,
    limit: int = 10,
    idempotency: Idempotency | None = None,
) -> str:
    """The id of the task that was accepted."""
    message = f"message of {task_id}"
    return records.enqueue(task_id, message, callback_uri=uri, queue_limit=limit, idempotency=idempotency)[0]


def response(records: TaskStore, task_id: str) -> ResponseMode | None:
    """The deployment's kind of answer, as accepting a task returns it."""
    return records.enqueue(task_id, "message", callback_uri=None, queue_limit=10)[1]


def callbacks(redis: Redis) -> list[str]:
    """The tasks whose callbacks wait for their receiver."""
    waiting: Any = redis.zrange(keys.callbacks(endpoint_of(URI)), 0, -1)
    return list(waiting)


@contextmanager
def announced(redis: Redis, channel: str = keys.COMPLETIONS) -> Iterator[list[Any]]:
    """The announcement of tasks that end in this `with`, in one message of this channel."""
    tasks: list[Any] = []
    with redis.pubsub() as listening:
        listening.subscribe(channel)
        listening.get_message(timeout=5)
        yield tasks
        message = listening.get_message(timeout=5)
        assert message is not None
        tasks += json.loads(message["data"])


def test_an_accepted_task_is_on_record_and_on_the_queue(records: TaskStore, redis: Redis) -> None:
    accept(records, uri=URI)
    assert records.find(TASK) == TaskRecord(status="PENDING", position=1, callback_uri=URI, callback=EXPECTED)
    assert redis.lrange(keys.QUEUE, 0, -1) == [f"message of {TASK}"]


def everything(redis: Redis) -> dict[str, Any]:
    """All that the server keeps, and until when."""
    return {key: (redis.pexpiretime(key), contents(redis, key)) for key in redis.scan_iter()}


def contents(redis: Redis, key: str) -> Any:
    read: dict[str, Callable[[], Any]] = {
        "hash": lambda: redis.hgetall(key),
        "list": lambda: redis.lrange(key, 0, -1),
        "zset": lambda: redis.zrange(key, 0, -1, withscores=True),
        "string": lambda: redis.get(key),
    }
    return read[str(redis.type(key))]()


def test_tasks_leave_the_queue_in_the_order_they_came(records: TaskStore, redis: Redis) -> None:
    for task_id in "abc":
        accept(records, task_id)
    assert [redis.rpop(keys.QUEUE) for _ in "abc"] == ["message of a", "message of b", "message of c"]


def test_accepting_the_same_task_again_changes_nothing(records: TaskStore, redis: Redis) -> None:
    accept(records, uri=URI)
    before = everything(redis)
    assert accept(records, uri="http://other.example") == TASK
    assert everything(redis) == before
    assert redis.llen(keys.QUEUE) == 1


def test_a_full_queue_stores_nothing(records: TaskStore, redis: Redis) -> None:
    for task_id in "ab":
        accept(records, task_id, limit=2)
    before = everything(redis)
    with pytest.raises(QueueFull):
        accept(records, "c", limit=2, idempotency=KEY)
    assert everything(redis) == before
    assert records.find("c") is None


def test_a_repeated_accept_of_a_task_in_a_queue_now_full_is_no_error(records: TaskStore, redis: Redis) -> None:
    accept(records, "a", limit=1)
    accept(records, "a", limit=1)
    assert redis.llen(keys.QUEUE) == 1


def test_the_bound_holds_when_many_accept_at_the_same_time(records: TaskStore, redis: Redis) -> None:
    full = []

    def accept_some(name: int) -> None:
        for index in range(10):
            try:
                accept(records, f"{name}-{index}", limit=25)
            except QueueFull:
                full.append(name)

    in_threads(8, accept_some)
    assert redis.llen(keys.QUEUE) == 25
    assert len(full) == 8 * 10 - 25


def test_accepting_returns_the_present_response_mode(records: TaskStore, redis: Redis) -> None:
    assert response(records, "a") is None
    redis.hset(keys.RESPONSE, mapping={"mode": "sync", "timeout": "2.5"})
    assert response(records, "b") == ResponseMode(synchronous=True, timeout=2.5)
    redis.hset(keys.RESPONSE, mapping={"mode": "async", "timeout": "2.5"})
    assert response(records, "b") == ResponseMode(synchronous=False, timeout=2.5)
    redis.delete(keys.RESPONSE)
    assert response(records, "c") is None


def test_what_an_earlier_release_stored_of_the_answer_is_still_read(earlier: Path, tmp_path: Path) -> None:
    shutil.copy(earlier / "appendonly.aof", tmp_path)
    with redis_server(tmp_path, "--appendonly", "yes") as url, connect(url) as redis:
        assert response(TaskStore(redis), "a") == ResponseMode(synchronous=True, timeout=7)


def test_every_method_is_one_round_trip(records: TaskStore, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    life: dict[str, Callable[[], Any]] = {
        "accept": lambda: accept(records, uri=URI, idempotency=KEY),
        "find": lambda: records.find(TASK),
        "end": lambda: records.complete(TASK, "SUCCESS", {"a": 1}, ttl=60),
        "cancel": lambda: records.cancel(TASK, ttl=60),
    }
    for step in life.values():  # the server now has the scripts and the connection is made
        step()
    redis.flushdb()
    sent: list[Any] = []
    send = Connection.send_packed_command

    def note(self: Connection, command: Any, check_health: bool = True) -> Any:
        sent.append(command)
        return send(self, command, check_health)

    monkeypatch.setattr(Connection, "send_packed_command", note)
    trips = {}
    for name, step in life.items():
        sent.clear()
        step()
        trips[name] = len(sent)
    assert trips == dict.fromkeys(life, 1)


@pytest.mark.parametrize("result", [{"a123": "Iris-setosa"}, {}, {"naïve": [1.5, None, True, "☃\ud800"]}])
def test_an_ended_task_has_its_result(records: TaskStore, result: Any) -> None:
    accept(records)
    records.complete(TASK, "SUCCESS", result, ttl=60)
    assert records.find(TASK) == TaskRecord(status="SUCCESS", result=result)


def test_a_record_is_finished_in_three_states_only(records: TaskStore) -> None:
    states = ["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]
    assert [state for state in states if TaskRecord(status=state).is_finished] == ["SUCCESS", "FAILURE", "REVOKED"]
    assert {"SUCCESS", "FAILURE", "REVOKED"} == TERMINAL_STATES


def test_the_first_end_stands(records: TaskStore, redis: Redis) -> None:
    accept(records, uri=URI)
    records.complete(TASK, "SUCCESS", {"a": 1}, ttl=60)
    records.complete(TASK, "FAILURE", {"args": ["too late"]}, ttl=60)
    assert records.find(TASK) == TaskRecord(status="SUCCESS", result={"a": 1}, callback_uri=URI, callback=EXPECTED)
    assert callbacks(redis) == [TASK]


def test_a_record_expires_only_after_its_end(records: TaskStore, redis: Redis) -> None:
    accept(records)
    assert redis.ttl(keys.task(TASK)) == -1
    records.complete(TASK, "SUCCESS", {}, ttl=60)
    assert 0 < int(redis.ttl(keys.task(TASK))) <= 60


def test_an_expired_record_is_not_found(records: TaskStore, redis: Redis) -> None:
    accept(records)
    records.complete(TASK, "SUCCESS", {}, ttl=60)
    redis.pexpire(keys.task(TASK), 0)
    assert records.find(TASK) is None


def test_the_end_is_announced_and_its_callback_queued_in_the_same_step(records: TaskStore, redis: Redis) -> None:
    """Once the end is announced, the result and the callback can be read."""
    accept(records, uri=URI)
    with announced(redis) as tasks, counted_commands(redis) as commands:
        records.complete(TASK, "FAILURE", {"args": ["no"]}, ttl=60)
    assert commands == ["evalsha"]
    assert tasks == [TASK]
    assert callbacks(redis) == [TASK]


def accept_awaited(broker: Redis, task_id: str, prefer: str, channel: str) -> None:
    task = NewTask(task_id=task_id, message="message", prefer=prefer)
    arguments = accept_arguments(task, queue_limit=10, synchronous=False, channel=channel)
    scripts.register(broker, "tasks/accept")(args=arguments)


def test_a_process_of_the_api_gets_the_results_for_which_it_waits(
    records: TaskStore, broker: Redis, redis: Redis
) -> None:
    for task_id, prefer, channel in (
        ("a", "wait", "one"),
        ("b", "wait", "one"),
        ("c", "wait", "other"),
        ("d", "", "one"),
    ):
        accept_awaited(broker, task_id, prefer, channel)
    long = json.dumps("x" * 64 * 1024)
    ends = [Completion("a", "SUCCESS", '{"é": 1}'), Completion("b", "FAILURE", long)]
    ends += [Completion(task_id, "SUCCESS", "1") for task_id in "cd"]
    with announced(redis) as all_tasks, announced(redis, "one") as of_one, announced(redis, "other") as of_other:
        records.complete_many(ends, ttl=60)
    assert all_tasks == ["a", "b", "c", "d"]
    assert of_one == [["a", "SUCCESS", '{"é": 1}'], ["b"]]
    assert of_other == [["c", "SUCCESS", "1"]]


def test_a_task_without_a_callback_queues_none(records: TaskStore, redis: Redis) -> None:
    accept(records)
    records.complete(TASK, "SUCCESS", {}, ttl=60)
    assert set(redis.scan_iter()) == {keys.task(TASK), keys.ACCEPTED, keys.QUEUE}


def test_an_id_never_accepted_is_not_found(records: TaskStore) -> None:
    for task_id in ("never", "", "\ud7ff*", "a:b", "to:receiver.example:80"):
        assert records.find(task_id) is None
        assert records.cancel(task_id, ttl=60) is None


def test_every_method_raises_when_redis_is_away(away: Redis) -> None:
    records = TaskStore(away)
    attempts: list[Callable[[], Any]] = [
        lambda: accept(records),
        lambda: records.complete(TASK, "SUCCESS", {}, ttl=60),
        lambda: records.find(TASK),
        lambda: records.cancel(TASK, ttl=60),
    ]
    for attempt in attempts:
        with pytest.raises(RedisError):
            attempt()


def test_a_server_that_lost_its_scripts_gets_them_again(records: TaskStore, redis: Redis) -> None:
    """As after a restart of Redis."""
    accept(records, "a")
    redis.script_flush()
    accept(records, "b")
    assert redis.llen(keys.QUEUE) == 2


# The place in the queue


def places(records: TaskStore, task_ids: str) -> dict[str, int | None]:
    found = {task_id: records.find(task_id) for task_id in task_ids}
    return {task_id: record.position for task_id, record in found.items() if record}


def take(redis: Redis, task_id: str) -> None:
    """As a worker takes the next task (store/claims.py has the whole step)."""
    assert redis.rpop(keys.QUEUE) == f"message of {task_id}"
    redis.zrem(keys.WAITING, task_id)
    redis.hset(keys.UNACKED, task_id, "the message")
    redis.hset(keys.OWNERS, task_id, "a worker")


def claims(redis: Redis) -> int:
    return int(redis.hlen(keys.UNACKED)) + int(redis.hlen(keys.OWNERS))


def test_a_waiting_task_has_its_place_and_moves_up(records: TaskStore, redis: Redis) -> None:
    for task_id in "abc":
        accept(records, task_id)
    assert places(records, "abc") == {"a": 1, "b": 2, "c": 3}
    take(redis, "a")
    assert places(records, "abc") == {"a": None, "b": 1, "c": 2}
    records.cancel("b", ttl=60)
    assert places(records, "abc") == {"a": None, "b": None, "c": 1}
    records.complete("c", "SUCCESS", {}, ttl=60)
    assert places(records, "abc") == {"a": None, "b": None, "c": None}


def test_completing_a_task_drops_its_message(records: TaskStore, redis: Redis) -> None:
    accept(records)
    take(redis, TASK)
    assert claims(redis) == 2
    records.complete(TASK, "SUCCESS", {}, ttl=60)
    assert claims(redis) == 0


# Cancelling


def test_a_cancelled_task_has_ended(records: TaskStore, redis: Redis) -> None:
    accept(records)
    assert records.cancel(TASK, ttl=60) == "REVOKED"
    assert records.find(TASK) == TaskRecord(status="REVOKED", result={"args": ["cancelled"]})
    assert 0 < int(redis.ttl(keys.task(TASK))) <= 60


@pytest.mark.parametrize("status", ["STARTED", "RETRY"])
def test_a_running_task_is_cancelled_and_released(records: TaskStore, redis: Redis, status: str) -> None:
    accept(records)
    take(redis, TASK)
    redis.hset(keys.task(TASK), "status", status)
    assert records.cancel(TASK, ttl=60) == "REVOKED"
    assert claims(redis) == 0
    records.complete(TASK, "SUCCESS", {"a": 1}, ttl=60)
    assert records.find(TASK) == TaskRecord(status="REVOKED", result={"args": ["cancelled"]})


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE"])
def test_an_ended_task_is_not_cancelled(records: TaskStore, redis: Redis, status: str) -> None:
    accept(records, uri=URI)
    records.complete(TASK, status, {"args": ["no"]}, ttl=60)
    before = everything(redis)
    assert records.cancel(TASK, ttl=600) == status
    assert everything(redis) == before


def test_a_task_is_cancelled_once(records: TaskStore, redis: Redis) -> None:
    accept(records, uri=URI)
    records.cancel(TASK, ttl=60)
    before = everything(redis)
    assert records.cancel(TASK, ttl=600) == "REVOKED"
    assert everything(redis) == before


def test_a_cancelled_task_is_announced_and_calls_back(records: TaskStore, redis: Redis) -> None:
    accept(records, uri=URI)
    with announced(redis) as tasks:
        records.cancel(TASK, ttl=60)
    assert tasks == [TASK]
    assert callbacks(redis) == [TASK]


def test_of_a_cancel_and_an_end_at_the_same_moment_one_stands(records: TaskStore) -> None:
    for number in range(50):
        task_id = f"task-{number}"
        accept(records, task_id, limit=100)
        told: list[str | None] = []
        cancelling = threading.Thread(target=lambda: told.append(records.cancel(task_id, ttl=60)))  # noqa: B023
        cancelling.start()
        records.complete(task_id, "SUCCESS", {}, ttl=60)
        cancelling.join()
        assert told == [record_of(records, task_id).status]


# Idempotency-Key


def test_the_same_key_and_body_is_the_same_task(records: TaskStore, redis: Redis) -> None:
    accept(records, "a", idempotency=KEY)
    before = everything(redis)
    assert accept(records, "b", idempotency=KEY) == "a"
    assert everything(redis) == before
    assert records.find("b") is None


def test_the_same_key_with_another_body_is_refused_and_stores_nothing(records: TaskStore, redis: Redis) -> None:
    accept(records, "a", idempotency=KEY)
    before = everything(redis)
    with pytest.raises(KeyReused):
        accept(records, "b", idempotency=OTHER_BODY)
    assert everything(redis) == before


def test_another_key_and_no_key_are_other_tasks(records: TaskStore, redis: Redis) -> None:
    accept(records, "a", idempotency=KEY)
    assert accept(records, "b", idempotency=Idempotency(key="another", body=KEY.body)) == "b"
    assert accept(records, "c") == "c"
    assert redis.llen(keys.QUEUE) == 3


def test_a_repeated_key_works_while_the_queue_is_full(records: TaskStore) -> None:
    accept(records, "a", limit=1, idempotency=KEY)
    assert accept(records, "b", limit=1, idempotency=KEY) == "a"
    with pytest.raises(KeyReused):
        accept(records, "b", limit=1, idempotency=OTHER_BODY)


def test_a_repeated_key_returns_the_present_response_mode(records: TaskStore, redis: Redis) -> None:
    redis.hset(keys.RESPONSE, mapping={"mode": "sync", "timeout": "2.5"})
    answers = [
        records.enqueue(task_id, "message", callback_uri=None, queue_limit=10, idempotency=KEY) for task_id in "ab"
    ]
    assert answers == [("a", ResponseMode(synchronous=True, timeout=2.5))] * 2


def test_a_key_at_the_same_moment_makes_one_task(records: TaskStore, redis: Redis) -> None:
    accepted = in_threads(8, lambda number: accept(records, f"task-{number}", idempotency=KEY))
    assert len(set(accepted)) == 1
    assert redis.llen(keys.QUEUE) == 1


def expiries(redis: Redis) -> tuple[int, int]:
    """The seconds that the record and the key are still kept; -1: until further notice."""
    return int(redis.ttl(keys.task(TASK))), int(redis.ttl(keys.idempotency(KEY.key)))


def test_a_key_is_kept_as_long_as_its_record(records: TaskStore, redis: Redis) -> None:
    accept(records, idempotency=KEY)
    assert expiries(redis) == (-1, -1)
    records.complete(TASK, "SUCCESS", {}, ttl=60)
    of_record, of_key = expiries(redis)
    assert 0 < of_record <= 60
    assert of_key == of_record


@pytest.mark.parametrize(
    ("outcome", "lifetime"), [(AttemptResult(delivered=True), 60), (AttemptResult(error="answered 410"), 600)]
)
def test_a_key_is_kept_until_the_callback_of_its_task_is_settled(
    records: TaskStore, broker: Redis, redis: Redis, outcome: AttemptResult, lifetime: int
) -> None:
    outbox = Outbox(broker, result_ttl=60, callback_ttl=600)
    accept(records, idempotency=KEY, uri=URI)
    records.complete(TASK, "SUCCESS", {}, ttl=60)
    assert expiries(redis) == (-1, -1)
    (callback,), _ = outbox.take(free=1, per_endpoint=1)
    outbox.settle([(callback, outcome)])
    of_record, of_key = expiries(redis)
    assert lifetime - 10 < of_record <= lifetime
    assert of_key == of_record
    outbox.resend([TASK])
    assert expiries(redis) == (-1, -1)


def test_a_key_whose_record_is_gone_makes_a_new_task(records: TaskStore, redis: Redis) -> None:
    accept(records, "old", idempotency=KEY)
    records.complete("old", "SUCCESS", {}, ttl=60)
    redis.delete(keys.task("old"))
    assert accept(records, idempotency=OTHER_BODY) == TASK
    assert expiries(redis) == (-1, -1)
    assert accept(records, "later", idempotency=OTHER_BODY) == TASK


# Redis at its memory limit


def test_beyond_the_memory_limit_nothing_is_accepted_and_all_that_was_goes_on(
    records: TaskStore, redis: Redis, memory_full: MemoryFull
) -> None:
    for task_id in "abc":
        accept(records, task_id, uri=URI, idempotency=Idempotency(key=task_id, body="body"))
    before = everything(redis)
    with memory_full():
        for idempotency in (None, KEY):
            with pytest.raises(OutOfMemoryError):
                accept(records, "d", idempotency=idempotency)
        assert everything(redis) == before
        assert accept(records, "d", idempotency=Idempotency(key="a", body="body")) == "a"
        records.complete("a", "SUCCESS", {"a": 1}, ttl=60)
        assert records.cancel("b", ttl=60) == "REVOKED"
        assert [record.status for record in map(records.find, "abc") if record] == ["SUCCESS", "REVOKED", "PENDING"]
        assert set(callbacks(redis)) == {"a", "b"}
    assert accept(records, "d") == "d"


def test_a_server_beyond_its_memory_limit_that_lost_its_scripts_gets_them_again(
    records: TaskStore, redis: Redis, memory_full: MemoryFull
) -> None:
    accept(records)
    redis.script_flush()
    with memory_full():
        records.complete(TASK, "SUCCESS", {"a": 1}, ttl=60)
    assert records.find(TASK) == TaskRecord(status="SUCCESS", result={"a": 1})


def test_a_record_has_the_times_of_its_task(records: TaskStore, broker: Redis) -> None:
    accept(records)
    waiting = record_of(records, TASK).times
    assert waiting.accepted is not None
    assert (waiting.started, waiting.ended) == (None, None)
    assert waiting.waited is not None
    assert 0 <= waiting.waited < 10
    broker.lset(keys.QUEUE, 0, task_message(TASK, None))
    claims = Claims(broker, ClaimLimits(deliveries=3, ttl=60), "host/1")
    claims.take(limit=1)
    claims.close()
    started = record_of(records, TASK).times
    assert started.started is not None
    assert started.started >= waiting.accepted
    records.complete(TASK, "SUCCESS", {}, ttl=60)
    ended = record_of(records, TASK).times
    assert ended.ended is not None
    assert ended.ended >= started.started
    assert ended.started == started.started


def test_run_times_are_averaged_over_the_tasks_that_a_process_ran_together(records: TaskStore, redis: Redis) -> None:
    """Two that took eight seconds together take four each."""
    for task_id in ("a", "b", "c"):
        accept(records, task_id)
    now = float(redis.time()[0])  # type: ignore[index]
    for task_id in ("a", "b"):
        redis.hset(keys.task(task_id), mapping={"started": now - 8})
    records.complete_many([Completion(task_id, "SUCCESS", "{}") for task_id in ("a", "b", "c")], ttl=60)
    count, mean = redis.hmget(keys.RUN_TIMES, ["count", "mean"])
    assert (count, round(float(mean or 0))) == ("2", 4)


def test_a_cancelled_task_is_no_measure_of_run_times(records: TaskStore, redis: Redis) -> None:
    accept(records)
    redis.hset(keys.task(TASK), mapping={"started": 1})
    records.cancel(TASK, ttl=60)
    assert not redis.exists(keys.RUN_TIMES)


def test_the_average_follows_the_latest_runs(records: TaskStore, redis: Redis) -> None:
    """After a change of the model, the times before are soon forgotten, and no more than two numbers are kept."""
    redis.hset(keys.RUN_TIMES, mapping={"count": 1_000_000, "mean": 10})
    for number in range(500):
        accept(records, str(number), limit=1000)
        redis.hset(keys.task(str(number)), mapping={"started": float(redis.time()[0])})  # type: ignore[index]
        records.complete(str(number), "SUCCESS", {}, ttl=60)
    assert float(redis.hget(keys.RUN_TIMES, "mean") or 10) < 1.5
    assert redis.hlen(keys.RUN_TIMES) == 2
