"""app/queue.py over app/completions.py: submitting, looking up and, above all, waiting."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis, RedisError
from waiting import until

from app import completions, keys
from app.queue import MemoryFull, QueueFull, TaskQueue, TaskRecord
from app.records import CallbackReport, Idempotency, KeyReused, TaskRecords
from app.settings import ResponseMode, Settings

OpenQueue = Callable[..., TaskQueue]
ReadSettings = Callable[..., Settings]


@pytest.fixture
def queue(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> TaskQueue:
    monkeypatch.setattr(completions, "RECONNECT_AFTER", 0.05)
    return open_queue()


@pytest.fixture
def records(broker: Redis) -> TaskRecords:
    return TaskRecords(broker)


class Waits:
    """Requests that wait at the same time, each in a thread; `answers` fills as they return."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue
        self._threads: list[threading.Thread] = []
        self.answers: list[TaskRecord | None] = []

    def start(self, task_id: str, timeout: float = 30) -> None:
        def wait() -> None:
            self.answers.append(self._queue.wait(task_id, timeout))

        self._threads.append(threading.Thread(target=wait))
        self._threads[-1].start()

    def join(self) -> list[TaskRecord | None]:
        for thread in self._threads:
            thread.join(30)
        return self.answers


@pytest.fixture
def waits(queue: TaskQueue) -> Iterator[Waits]:
    waits = Waits(queue)
    yield waits
    waits.join()


def submit(queue: TaskQueue) -> str:
    return queue.submit({"x": 1}, callback_uri=None).task_id


def listeners(broker: Redis) -> list[dict[str, Any]]:
    """The connections of this test that listen for ended tasks."""
    clients: Any = broker.client_list()
    name = broker.client_getname()
    return [client for client in clients if client["sub"] == "1" and client["name"] == name]


def test_a_submitted_task_is_stored_before_the_answer(queue: TaskQueue, redis: Redis) -> None:
    accepted = queue.submit({"x": 1}, callback_uri="http://receiver.example")
    assert str(uuid.UUID(accepted.task_id)) == accepted.task_id
    assert queue.find(accepted.task_id) == TaskRecord(
        status="PENDING",
        position=1,
        callback_uri="http://receiver.example",
        callback=CallbackReport(state="PENDING"),
    )
    message = json.loads(str(redis.lindex(keys.QUEUE, 0)))
    assert message["headers"]["id"] == accepted.task_id


def test_the_deployments_mode_holds_until_it_is_changed(queue: TaskQueue, redis: Redis) -> None:
    assert queue.submit(1, callback_uri=None).response == ResponseMode(synchronous=False, timeout=5)
    redis.hset(keys.RESPONSE, mapping={"mode": "sync", "timeout": "1"})
    assert queue.submit(1, callback_uri=None).response == ResponseMode(synchronous=True, timeout=1)


def test_a_repeated_key_is_the_first_task_and_another_body_is_refused(queue: TaskQueue, redis: Redis) -> None:
    first = queue.submit(1, callback_uri=None, idempotency=Idempotency(key="key", body="body"))
    assert queue.submit(1, callback_uri=None, idempotency=Idempotency(key="key", body="body")) == first
    with pytest.raises(KeyReused):
        queue.submit(2, callback_uri=None, idempotency=Idempotency(key="key", body="another"))
    assert redis.llen(keys.QUEUE) == 1


def test_a_cancelled_task_is_kept_as_long_as_a_result(open_queue: OpenQueue, redis: Redis) -> None:
    queue = open_queue(RESULT_LIFETIME="60")
    task_id = submit(queue)
    assert queue.cancel(task_id) == "REVOKED"
    assert 0 < int(redis.ttl(keys.task(task_id))) <= 60
    assert queue.cancel("never") is None


def test_a_wait_ends_when_the_task_is_cancelled(queue: TaskQueue, broker: Redis, waits: Waits) -> None:
    task_id = submit(queue)
    waits.start(task_id)
    until(lambda: listeners(broker), what="the listener")
    queue.cancel(task_id)
    assert waits.join() == [TaskRecord(status="REVOKED", result={"args": ["cancelled"]})]


def test_a_queue_without_memory_refuses(queue: TaskQueue, memory_full: Callable[[], Any]) -> None:
    with memory_full(), pytest.raises(MemoryFull):
        submit(queue)


def test_a_queue_at_its_bound_refuses(open_queue: OpenQueue) -> None:
    queue = open_queue(QUEUE_LIMIT="1")
    submit(queue)
    with pytest.raises(QueueFull):
        submit(queue)


def test_a_wait_returns_the_result_when_the_task_ends(
    queue: TaskQueue, records: TaskRecords, broker: Redis, waits: Waits
) -> None:
    task_id = submit(queue)
    waits.start(task_id)
    until(lambda: listeners(broker), what="the listener")
    assert waits.answers == []
    records.end(task_id, "SUCCESS", {"a": 1}, lifetime=60)
    assert waits.join() == [TaskRecord(status="SUCCESS", result={"a": 1})]


def test_a_failure_ends_a_wait_too(queue: TaskQueue, records: TaskRecords, broker: Redis, waits: Waits) -> None:
    task_id = submit(queue)
    waits.start(task_id)
    until(lambda: listeners(broker), what="the listener")
    records.end(task_id, "FAILURE", {"args": ["no"]}, lifetime=60)
    assert waits.join() == [TaskRecord(status="FAILURE", result={"args": ["no"]})]


def test_a_result_that_is_there_already_needs_no_wait(queue: TaskQueue, records: TaskRecords) -> None:
    task_id = submit(queue)
    records.end(task_id, "SUCCESS", {"a": 1}, lifetime=60)
    started = time.monotonic()
    assert queue.wait(task_id, 30) == TaskRecord(status="SUCCESS", result={"a": 1})
    assert time.monotonic() - started < 5


def test_a_wait_that_runs_out_returns_the_task_as_it_is(queue: TaskQueue, records: TaskRecords) -> None:
    task_id = submit(queue)
    records.start(task_id)
    started = time.monotonic()
    assert queue.wait(task_id, 0.3) == TaskRecord(status="STARTED")
    assert 0.3 <= time.monotonic() - started < 5


def test_a_wait_for_no_time_looks_once(queue: TaskQueue) -> None:
    assert queue.wait(submit(queue), 0) == TaskRecord(status="PENDING", position=1)


def test_a_wait_for_an_unknown_task_does_not_wait(queue: TaskQueue) -> None:
    started = time.monotonic()
    assert queue.wait("never", 30) is None
    assert time.monotonic() - started < 5


def test_the_end_of_another_task_wakes_nobody_for_good(
    queue: TaskQueue, records: TaskRecords, broker: Redis, waits: Waits
) -> None:
    one, other = submit(queue), submit(queue)
    waits.start(one)
    until(lambda: listeners(broker), what="the listener")
    records.end(other, "SUCCESS", {"of": "other"}, lifetime=60)
    broker.publish(keys.ENDED, "never-accepted")
    assert waits.answers == []
    records.end(one, "SUCCESS", {"of": "one"}, lifetime=60)
    assert waits.join() == [TaskRecord(status="SUCCESS", result={"of": "one"})]


def test_many_wait_on_one_connection(queue: TaskQueue, records: TaskRecords, broker: Redis, waits: Waits) -> None:
    task_ids = [submit(queue) for _ in range(40)]
    for task_id in task_ids:
        waits.start(task_id)
        waits.start(task_ids[0]) if task_id == task_ids[1] else None
    until(lambda: listeners(broker), what="the listener")
    assert len(listeners(broker)) == 1
    for task_id in task_ids:
        records.end(task_id, "SUCCESS", {"of": task_id}, lifetime=60)
    answers = waits.join()
    assert sorted(str(answer.result["of"]) for answer in answers if answer) == sorted([*task_ids, task_ids[0]])


def test_more_waits_than_threads_may_wait_return_at_once(open_queue: OpenQueue, records: TaskRecords) -> None:
    """Of four threads two stay free for requests that do not wait."""
    queue = open_queue(API_THREADS="4")
    waits = Waits(queue)
    task_id = submit(queue)
    waits.start(task_id)
    waits.start(task_id)
    until(lambda: waiting(queue) == 2, what="two requests to wait")
    started = time.monotonic()
    assert queue.wait(task_id, 30) == TaskRecord(status="PENDING", position=1)
    assert time.monotonic() - started < 5
    records.end(task_id, "SUCCESS", {}, lifetime=60)
    assert len(waits.join()) == 2
    later = submit(queue)
    assert queue.wait(later, 0.1) == TaskRecord(status="PENDING", position=1)  # there is room again


def waiting(queue: TaskQueue) -> int:
    return sum(len(events) for events in queue._completions._waiting.values())


def test_nothing_is_left_of_a_wait(queue: TaskQueue) -> None:
    for _ in range(5):
        queue.wait(submit(queue), 0.01)
    assert waiting(queue) == 0
    assert len(queue._completions._waiting) == 0


def test_a_killed_connection_is_made_again_and_the_wait_goes_on(
    queue: TaskQueue, records: TaskRecords, broker: Redis, waits: Waits
) -> None:
    task_id = submit(queue)
    waits.start(task_id)
    (listener,) = until(lambda: listeners(broker), what="the listener")
    broker.client_kill_filter(_id=listener["id"])
    until(lambda: [client for client in listeners(broker) if client["id"] != listener["id"]], what="a new listener")
    assert waits.answers == []
    records.end(task_id, "SUCCESS", {"a": 1}, lifetime=60)
    assert waits.join() == [TaskRecord(status="SUCCESS", result={"a": 1})]


def test_an_end_announced_while_nobody_could_hear_it_is_still_seen(
    queue: TaskQueue, broker: Redis, waits: Waits
) -> None:
    task_id = submit(queue)
    waits.start(task_id)
    (listener,) = until(lambda: listeners(broker), what="the listener")
    # The task ends without a word, and the connection breaks: both in one step, as seen from the listener.
    with broker.pipeline() as pipe:
        pipe.hset(keys.task(task_id), mapping={"status": "SUCCESS", "result": "{}"})
        pipe.execute_command("CLIENT", "KILL", "ID", listener["id"])
        pipe.execute()
    assert waits.join() == [TaskRecord(status="SUCCESS", result={})]


def test_a_connection_that_breaks_again_and_again_loses_no_wait(
    queue: TaskQueue, records: TaskRecords, broker: Redis, waits: Waits
) -> None:
    task_ids = [submit(queue) for _ in range(10)]
    for task_id in task_ids:
        waits.start(task_id)
    for task_id in task_ids:
        until(lambda: listeners(broker), what="the listener")
        broker.client_kill_filter(_type="pubsub")
        records.end(task_id, "SUCCESS", {"of": task_id}, lifetime=60)
    assert sorted(str(answer.result["of"]) for answer in waits.join() if answer) == sorted(task_ids)


def test_listening_in_silence_is_no_error(queue: TaskQueue, broker: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """The connection's own time-out, 2 s, is for commands: an hour without an ended task is nothing to report."""
    with caplog.at_level(logging.WARNING):
        assert queue.wait(submit(queue), 2.6) == TaskRecord(status="PENDING", position=1)
    assert len(listeners(broker)) == 1
    assert caplog.messages == []


def test_every_method_raises_when_redis_is_away(
    away: Redis, read_settings: ReadSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "RECONNECT_AFTER", 3600)
    queue = TaskQueue(away, read_settings())
    attempts: list[Callable[[], Any]] = [
        lambda: queue.submit({}, callback_uri=None),
        lambda: queue.find("an-id"),
        lambda: queue.wait("an-id", 1),
        lambda: queue.cancel("an-id"),
        queue.workers,
    ]
    for attempt in attempts:
        with pytest.raises(RedisError):
            attempt()
