"""client.py over completions.py and store/loop: submitting, looking up, cancelling, waiting."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis, RedisError
from support.asgi_client import LOOP
from support.redis_server import counted_commands
from support.waiting import until

from app.serving.queue import client as queue_client
from app.serving.queue.client import MemoryFull, Overloaded, TaskQueue
from app.serving.queue.submission import SubmitResult, TaskRequest
from app.serving.queue.waiting import NONE, Preferences
from app.serving.settings import Settings
from app.serving.store import connection, keys
from app.serving.store.connection import connect
from app.serving.store.loop import connection as loop_connection
from app.serving.store.tasks import CallbackReport, Idempotency, KeyReused, QueueFull, TaskRecord, TaskStore

OpenQueue = Callable[..., TaskQueue]
ReadSettings = Callable[..., Settings]

ASYNCHRONOUS = Preferences(respond_async=True)


@pytest.fixture
def queue(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> TaskQueue:
    monkeypatch.setattr(loop_connection, "RECONNECT_DELAY", 0.05)
    return open_queue()


class Waits:
    """Requests that wait at the same time, each in a thread; `answers` are what they returned."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue
        self._threads: list[threading.Thread] = []
        self.answers: list[TaskRecord | None] = []

    def start(self, task_id: str, timeout: float = 30) -> None:
        def ask() -> None:
            self.answers.append(wait(self._queue, task_id, timeout))

        self._threads.append(threading.Thread(target=ask))
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
    return accept(queue, {"x": 1}).task_id


def accept(queue: TaskQueue, verified: Any = None, prefer: Preferences = ASYNCHRONOUS, **fields: Any) -> SubmitResult:
    return LOOP.run(queue.submit(lambda: TaskRequest(verified=verified, **fields), prefer))


def find(queue: TaskQueue, task_id: str) -> TaskRecord | None:
    """The record, with its result parsed."""
    return parsed(LOOP.run(queue.find(task_id)))


def wait(queue: TaskQueue, task_id: str, timeout: float) -> TaskRecord | None:
    return parsed(LOOP.run(queue.wait(task_id, timeout)))


def parsed(record: TaskRecord | None) -> TaskRecord | None:
    if record is None or record.text is None:
        return record
    return replace(record, result=json.loads(record.text))


def listeners(broker: Redis) -> list[dict[str, Any]]:
    """The connections of this test that are subscribed to all ended tasks, and to those of their process."""
    clients: Any = broker.client_list()
    name = broker.client_getname()
    return [client for client in clients if client["sub"] == "2" and client["name"] == name]


def test_a_submitted_task_is_stored_before_the_answer(queue: TaskQueue, redis: Redis) -> None:
    accepted = accept(queue, {"x": 1}, callback_uri="http://receiver.example")
    assert str(uuid.UUID(accepted.task_id)) == accepted.task_id
    assert find(queue, accepted.task_id) == TaskRecord(
        status="PENDING", position=1, callback_uri="http://receiver.example", callback=CallbackReport(state="PENDING")
    )
    message = json.loads(str(redis.lindex(keys.QUEUE, 0)))
    assert message["headers"]["id"] == accepted.task_id


def test_the_deployments_response_mode_applies_until_it_is_changed(queue: TaskQueue, redis: Redis) -> None:
    assert not accept(queue, prefer=NONE).waited
    redis.hset(keys.RESPONSE, mapping={"mode": "sync", "timeout": "0.1"})
    in_time = accept(queue, prefer=NONE)
    assert (in_time.waited, in_time.record) == (True, TaskRecord(status="PENDING", position=2))
    assert not accept(queue, prefer=ASYNCHRONOUS).waited


@pytest.mark.parametrize(
    ("mode", "prefer", "waits"),
    [
        ("async", NONE, False),
        ("sync", NONE, True),
        ("sync", ASYNCHRONOUS, False),
        ("async", Preferences(wait=0), True),
        ("async", Preferences(wait=0, respond_async=True), True),
    ],
)
def test_a_task_whose_request_waits_has_the_channel_of_its_process(
    open_queue: OpenQueue, redis: Redis, mode: str, prefer: Preferences, waits: bool
) -> None:
    accepted = accept(open_queue(RESPONSE_MODE=mode, RESPONSE_TIMEOUT="0"), prefer=prefer)
    assert accepted.waited == waits
    channels: Any = redis.pubsub_channels()
    awaited = redis.hget(keys.task(accepted.task_id), "awaited")
    assert (awaited in channels) if waits else awaited is None


class WaitingRequest:
    """A request that waits for its task, in a thread."""

    def __init__(self, queue: TaskQueue, **fields: Any) -> None:
        self.accepted: list[SubmitResult] = []
        self._thread = threading.Thread(
            target=lambda: self.accepted.append(accept(queue, prefer=Preferences(wait=30), **fields))
        )
        self._thread.start()

    def join(self) -> SubmitResult:
        self._thread.join(30)
        return self.accepted[0]


def waiting_task(redis: Redis) -> str:
    task_ids: Any = until(lambda: redis.zrange(keys.WAITING, 0, -1), what="the task on the queue")
    task_id: str = task_ids[0]
    return task_id


def test_a_request_that_waits_gets_the_result_from_the_announcement(
    queue: TaskQueue, records: TaskStore, redis: Redis
) -> None:
    request = WaitingRequest(queue)
    task_id = waiting_task(redis)
    with counted_commands(redis) as commands:
        records.complete(task_id, "SUCCESS", {"a": 1}, ttl=60)
        assert parsed(request.join().record) == TaskRecord(status="SUCCESS", result={"a": 1})
    assert "hgetall" not in commands


@pytest.mark.parametrize("length", [65_000, 70_000, 1_000_000])
def test_a_long_result_is_looked_up(queue: TaskQueue, records: TaskStore, redis: Redis, length: int) -> None:
    request = WaitingRequest(queue)
    records.complete(waiting_task(redis), "SUCCESS", {"a": "x" * length}, ttl=60)
    assert parsed(request.join().record) == TaskRecord(status="SUCCESS", result={"a": "x" * length})


def test_a_broker_that_goes_away_during_a_wait_ends_the_wait_without_an_error(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task was accepted: a client that got an error would send it again."""

    async def away(task_id: str) -> TaskRecord:
        raise RedisError("Connection closed by server.")

    monkeypatch.setattr(queue._store, "find", away)
    accepted = accept(queue, prefer=Preferences(wait=0))
    assert (accepted.waited, accepted.record) == (True, None)


def test_a_repeated_key_waits_for_the_first_task(queue: TaskQueue, records: TaskStore, redis: Redis) -> None:
    key = Idempotency(key="key", body="body")
    first = accept(queue, idempotency=key)
    request = WaitingRequest(queue, idempotency=key)
    until(lambda: waiting(queue), what="the request to wait")
    records.complete(first.task_id, "SUCCESS", {"a": 1}, ttl=60)
    again = request.join()
    assert (again.task_id, parsed(again.record)) == (first.task_id, TaskRecord(status="SUCCESS", result={"a": 1}))


def test_each_of_many_submissions_has_its_own_outcome(queue: TaskQueue, redis: Redis) -> None:
    """Round trips are shared; each request gets its own task, or its own error."""

    async def many() -> list[SubmitResult | BaseException]:
        return await asyncio.gather(*(queue.submit(lambda n=n: prepare(n)) for n in range(500)), return_exceptions=True)

    def prepare(number: int) -> TaskRequest:
        if number % 7 == 0:
            raise ValueError(f"refused {number}")
        idempotency = Idempotency(key=f"key {number % 5}", body=f"body {number % 10}") if number % 11 == 0 else None
        return TaskRequest(verified={"of": number}, idempotency=idempotency)

    outcomes = LOOP.run(many())
    messages = {message["headers"]["id"]: message for message in map(json.loads, redis.lrange(keys.QUEUE, 0, -1))}
    accepted = {}
    for number, outcome in enumerate(outcomes):
        if number % 7 == 0:
            assert str(outcome) == f"refused {number}"
        elif isinstance(outcome, SubmitResult):
            accepted[number] = outcome.task_id
        else:
            assert isinstance(outcome, KeyReused)
            assert number % 11 == 0
    for number, task_id in accepted.items():
        ((verified,), _, _) = json.loads(base64.b64decode(messages[task_id]["body"]))
        assert verified["of"] == number or (number % 11 == 0 and verified["of"] % 10 == number % 10)
    assert set(accepted.values()) == set(messages)
    assert redis.llen(keys.QUEUE) == len(messages)


def test_of_many_submissions_the_queue_accepts_up_to_its_limit(open_queue: OpenQueue, redis: Redis) -> None:
    queue = open_queue(QUEUE_LIMIT="30")

    async def many() -> list[SubmitResult | BaseException]:
        submissions = (queue.submit(lambda: TaskRequest(verified=1)) for _ in range(100))
        return await asyncio.gather(*submissions, return_exceptions=True)

    outcomes = LOOP.run(many())
    assert sum(isinstance(outcome, SubmitResult) for outcome in outcomes) == redis.llen(keys.QUEUE) == 30
    assert sum(isinstance(outcome, QueueFull) for outcome in outcomes) == 70


def test_a_repeated_key_is_the_first_task_and_another_body_is_refused(queue: TaskQueue, redis: Redis) -> None:
    first = accept(queue, 1, idempotency=Idempotency(key="key", body="body"))
    assert accept(queue, 1, idempotency=Idempotency(key="key", body="body")) == first
    with pytest.raises(KeyReused):
        accept(queue, 2, idempotency=Idempotency(key="key", body="another"))
    assert redis.llen(keys.QUEUE) == 1


def test_a_cancelled_task_is_kept_as_long_as_a_result(open_queue: OpenQueue, redis: Redis) -> None:
    queue = open_queue(RESULT_LIFETIME="60")
    task_id = submit(queue)
    assert LOOP.run(queue.cancel(task_id)) == "REVOKED"
    assert 0 < int(redis.ttl(keys.task(task_id))) <= 60
    assert LOOP.run(queue.cancel("never")) is None


def test_a_wait_ends_when_the_task_is_cancelled(queue: TaskQueue, broker: Redis, waits: Waits) -> None:
    task_id = submit(queue)
    waits.start(task_id)
    until(lambda: listeners(broker), what="the listener")
    LOOP.run(queue.cancel(task_id))
    assert waits.join() == [TaskRecord(status="REVOKED", result={"args": ["cancelled"]})]


def test_a_queue_without_memory_refuses(queue: TaskQueue, memory_full: Callable[[], Any]) -> None:
    with memory_full(), pytest.raises(MemoryFull):
        submit(queue)


def test_the_number_of_requests_that_wait_to_be_stored_is_limited(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_client, "MAX_SUBMISSIONS", 3)
    queue = open_queue(API_THREADS="4")
    going_on = threading.Event()

    def prepare() -> TaskRequest:
        assert going_on.wait(30)
        return TaskRequest(verified={})

    async def crowd() -> list[Any]:
        # The threads are busy with as many.
        begun = []
        for _ in range(4):
            begun.append(asyncio.ensure_future(queue.submit(prepare, ASYNCHRONOUS)))
            await asyncio.sleep(0)
            while queue._checks.backlog:
                await asyncio.sleep(0.001)
        begun += [asyncio.ensure_future(queue.submit(prepare, ASYNCHRONOUS)) for _ in range(5)]
        await asyncio.sleep(0)
        going_on.set()
        return await asyncio.gather(*begun, return_exceptions=True)

    outcomes = LOOP.run(crowd())
    assert [type(outcome) for outcome in outcomes] == [SubmitResult] * 7 + [Overloaded] * 2
    assert isinstance(accept(queue), SubmitResult)


class SilentServer:
    """Accepts connections, counts them, and never sends a byte."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=200)
        self._accepted: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._server.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._accepted.append(self._server.accept()[0])

    @property
    def accepted(self) -> int:
        return len(self._accepted)

    def close(self) -> None:
        self._server.close()
        for each in self._accepted:
            each.close()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentServer]:
    monkeypatch.setattr(connection, "TIMEOUT", 0.3)
    monkeypatch.setattr(loop_connection, "RECONNECT_DELAY", 3600)
    server = SilentServer()
    yield server
    LOOP.cancel_all()
    server.close()


@pytest.mark.parametrize(
    "ask",
    [lambda queue: queue.submit(lambda: TaskRequest(verified={}), ASYNCHRONOUS), lambda queue: queue.find("an-id")],
    ids=["submit", "find"],
)
def test_each_of_many_requests_waits_for_one_time_out_of_redis_at_most(
    silent: SilentServer, read_settings: ReadSettings, ask: Callable[[TaskQueue], Any]
) -> None:
    queue = TaskQueue(connect(silent.url), read_settings())

    async def crowd(number: int) -> list[Any]:
        return await asyncio.gather(*(ask(queue) for _ in range(number)), return_exceptions=True)

    (alone,) = LOOP.run(crowd(1))
    assert isinstance(alone, RedisError)
    tries = silent.accepted
    outcomes = LOOP.run(crowd(500))
    assert {type(outcome) for outcome in outcomes} == {type(alone)}
    # All share the attempts.
    assert silent.accepted <= 2 * tries


def test_a_request_after_the_time_out_tries_redis_again(queue: TaskQueue, broker: Redis) -> None:
    broker.client_pause(5000)
    with pytest.raises(RedisError):
        submit(queue)
    broker.client_unpause()
    assert find(queue, submit(queue)) is not None


def test_the_number_of_lookups_that_wait_is_limited(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_client, "MAX_LOOKUPS", 3)
    queue = open_queue()

    async def crowd() -> list[Any]:
        return await asyncio.gather(*(queue.find("an-id") for _ in range(5)), return_exceptions=True)

    assert [type(outcome).__name__ for outcome in LOOP.run(crowd())] == ["NoneType"] * 3 + ["RedisError"] * 2


@pytest.mark.parametrize(("status", "result"), [("SUCCESS", {"a": 1}), ("FAILURE", {"args": ["no"]})])
def test_a_wait_returns_the_result_when_the_task_ends(
    queue: TaskQueue, records: TaskStore, broker: Redis, waits: Waits, status: str, result: dict[str, Any]
) -> None:
    task_id = submit(queue)
    waits.start(task_id)
    until(lambda: listeners(broker), what="the listener")
    assert waits.answers == []
    records.complete(task_id, status, result, ttl=60)
    assert waits.join() == [TaskRecord(status=status, result=result)]


def test_a_wait_for_an_awaited_task_has_the_whole_record(queue: TaskQueue, records: TaskStore, waits: Waits) -> None:
    """Its end is announced with the result; what became of its callback stands in the record alone."""
    task_id = accept(queue, {"x": 1}, Preferences(wait=0), callback_uri="http://a.example/").task_id
    waits.start(task_id)
    until(lambda: queue._waits, what="the wait")
    # Behind the wait's own look at the record.
    find(queue, task_id)
    records.complete(task_id, "SUCCESS", {"a": 1}, ttl=60)
    (record,) = waits.join()
    assert record is not None
    assert record.callback == CallbackReport(state="PENDING")


def test_a_wait_for_a_task_that_has_ended_returns_at_once(queue: TaskQueue, records: TaskStore) -> None:
    task_id = submit(queue)
    records.complete(task_id, "SUCCESS", {"a": 1}, ttl=60)
    started = time.monotonic()
    assert wait(queue, task_id, 30) == TaskRecord(status="SUCCESS", result={"a": 1})
    assert time.monotonic() - started < 5


def test_a_wait_that_runs_out_returns_the_task_as_it_is(queue: TaskQueue, redis: Redis) -> None:
    task_id = submit(queue)
    redis.hset(keys.task(task_id), "status", "STARTED")
    started = time.monotonic()
    assert wait(queue, task_id, 0.3) == TaskRecord(status="STARTED")
    assert 0.3 <= time.monotonic() - started < 5


def stop(queue: TaskQueue) -> None:
    async def stop_waiting() -> None:
        queue.stop_waiting()

    LOOP.run(stop_waiting())


def test_a_wait_for_a_task_that_waits_itself_ends_when_the_server_stops(
    queue: TaskQueue, broker: Redis, waits: Waits
) -> None:
    waits.start(submit(queue))
    until(lambda: listeners(broker), what="the listener")
    stop(queue)
    assert waits.join() == [TaskRecord(status="PENDING", position=1)]
    later = accept(queue, {"x": 1}, Preferences(wait=30))
    assert (later.waited, later.record) == (True, TaskRecord(status="PENDING", position=2))


def test_a_wait_for_a_task_that_runs_goes_on_for_a_while_when_the_server_stops(
    queue: TaskQueue, records: TaskStore, redis: Redis, broker: Redis, waits: Waits
) -> None:
    task_id = submit(queue)
    redis.hset(keys.task(task_id), "status", "STARTED")
    waits.start(task_id)
    until(lambda: listeners(broker), what="the listener")
    stop(queue)
    # Behind the wait's own look at the record.
    find(queue, task_id)
    assert waits.answers == []
    records.complete(task_id, "SUCCESS", {"a": 1}, ttl=60)
    assert waits.join() == [TaskRecord(status="SUCCESS", result={"a": 1})]


def test_a_wait_for_a_task_that_outlasts_the_server_ends_before_that(
    queue: TaskQueue, redis: Redis, broker: Redis, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_client, "STOP_WAIT", 0.1)
    task_id = submit(queue)
    redis.hset(keys.task(task_id), "status", "STARTED")
    waits.start(task_id)
    until(lambda: listeners(broker), what="the listener")
    stop(queue)
    assert waits.join() == [TaskRecord(status="STARTED")]


def test_a_wait_of_zero_seconds_reads_the_record_once(queue: TaskQueue) -> None:
    assert wait(queue, submit(queue), 0) == TaskRecord(status="PENDING", position=1)


def test_a_wait_for_an_unknown_task_does_not_wait(queue: TaskQueue) -> None:
    started = time.monotonic()
    assert wait(queue, "never", 30) is None
    assert time.monotonic() - started < 5


def test_the_end_of_another_task_ends_no_wait(
    queue: TaskQueue, records: TaskStore, broker: Redis, waits: Waits
) -> None:
    one, other = submit(queue), submit(queue)
    waits.start(one)
    until(lambda: listeners(broker), what="the listener")
    records.complete(other, "SUCCESS", {"of": "other"}, ttl=60)
    for unknown in (
        '["never-accepted"]',
        '[["never-accepted"]]',
        "never-accepted",
        "[1]",
        '[["a", "b", "c", "d"]]',
        "{}",
    ):
        for channel in (keys.COMPLETIONS, queue._completions.channel):
            broker.publish(channel, unknown)
    assert waits.answers == []
    records.complete(one, "SUCCESS", {"of": "one"}, ttl=60)
    assert waits.join() == [TaskRecord(status="SUCCESS", result={"of": "one"})]


def test_many_waits_share_one_connection(queue: TaskQueue, records: TaskStore, broker: Redis, waits: Waits) -> None:
    task_ids = [submit(queue) for _ in range(40)]
    for task_id in task_ids:
        waits.start(task_id)
        waits.start(task_ids[0]) if task_id == task_ids[1] else None
    until(lambda: listeners(broker), what="the listener")
    assert len(listeners(broker)) == 1
    for task_id in task_ids:
        records.complete(task_id, "SUCCESS", {"of": task_id}, ttl=60)
    answers = waits.join()
    assert sorted(str(answer.result["of"]) for answer in answers if answer) == sorted([*task_ids, task_ids[0]])


def test_waits_beyond_the_limit_return_at_once(
    queue: TaskQueue, records: TaskStore, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.serving.queue.client.MAX_WAITS", 2)
    task_id = submit(queue)
    waits.start(task_id)
    waits.start(task_id)
    until(lambda: waiting(queue) == 2, what="two requests to wait")
    started = time.monotonic()
    assert wait(queue, task_id, 30) == TaskRecord(status="PENDING", position=1)
    assert time.monotonic() - started < 5
    records.complete(task_id, "SUCCESS", {}, ttl=60)
    assert len(waits.join()) == 2
    later = submit(queue)
    assert wait(queue, later, 0.1) == TaskRecord(status="PENDING", position=1)  # there is room again


def waiting(queue: TaskQueue) -> int:
    watched = sum(len(waiters) for waiters in queue._completions._watched.values())
    return watched + len(queue._completions._expected)


def test_a_wait_leaves_no_waiter_behind(queue: TaskQueue) -> None:
    for _ in range(5):
        wait(queue, submit(queue), 0.01)
    assert waiting(queue) == 0
    assert len(queue._completions._watched) == 0


def test_a_killed_connection_is_replaced_and_the_wait_goes_on(
    queue: TaskQueue, records: TaskStore, broker: Redis, waits: Waits
) -> None:
    task_id = submit(queue)
    waits.start(task_id)
    (listener,) = until(lambda: listeners(broker), what="the listener")
    broker.client_kill_filter(_id=listener["id"])
    until(lambda: [client for client in listeners(broker) if client["id"] != listener["id"]], what="a new listener")
    assert waits.answers == []
    records.complete(task_id, "SUCCESS", {"a": 1}, ttl=60)
    assert waits.join() == [TaskRecord(status="SUCCESS", result={"a": 1})]


def test_an_end_announced_while_the_connection_is_broken_is_not_missed(
    queue: TaskQueue, broker: Redis, waits: Waits
) -> None:
    task_id = submit(queue)
    waits.start(task_id)
    (listener,) = until(lambda: listeners(broker), what="the listener")
    # The task ends without an announcement, and the connection breaks: both in one step for the listener.
    with broker.pipeline() as pipe:
        pipe.hset(keys.task(task_id), mapping={"status": "SUCCESS", "result": "{}"})
        pipe.execute_command("CLIENT", "KILL", "ID", listener["id"])
        pipe.execute()
    assert waits.join() == [TaskRecord(status="SUCCESS", result={})]


def test_a_connection_that_breaks_again_and_again_loses_no_wait(
    queue: TaskQueue, records: TaskStore, broker: Redis, waits: Waits
) -> None:
    task_ids = [submit(queue) for _ in range(10)]
    for task_id in task_ids:
        waits.start(task_id)
    for task_id in task_ids:
        until(lambda: listeners(broker), what="the listener")
        broker.client_kill_filter(_type="pubsub")
        records.complete(task_id, "SUCCESS", {"of": task_id}, ttl=60)
    assert sorted(str(answer.result["of"]) for answer in waits.join() if answer) == sorted(task_ids)


def test_a_channel_without_messages_is_no_error(
    queue: TaskQueue, broker: Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection's own time-out, 2 s, is for commands: an hour without an ended task is no error."""
    monkeypatch.setattr(loop_connection, "PING_INTERVAL", 0.5)
    with caplog.at_level(logging.WARNING):
        assert wait(queue, submit(queue), 2.6) == TaskRecord(status="PENDING", position=1)
    assert len(listeners(broker)) == 1
    assert caplog.messages == []


def test_a_redis_that_stops_responding_is_noticed_by_a_ping(
    queue: TaskQueue,
    waits: Waits,
    broker: Redis,
    records: TaskStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_connection, "PING_INTERVAL", 0.2)
    monkeypatch.setattr(loop_connection, "RECONNECT_DELAY", 0.1)
    monkeypatch.setattr(connection, "TIMEOUT", 0.5)
    task_id = submit(queue)
    waits.start(task_id)
    (listener,) = until(lambda: listeners(broker), what="the listener")
    # It is noticed after a ping and two time-outs; on a slow machine later.
    broker.client_pause(4000)
    until(lambda: "cannot listen for ended tasks" in caplog.text, what="the warning")
    until(lambda: listeners(broker) and listeners(broker)[0]["id"] != listener["id"], what="a new listener")
    records.complete(task_id, "SUCCESS", {"a": 1}, ttl=60)
    assert [answer.result for answer in waits.join() if answer] == [{"a": 1}]


def test_every_method_raises_when_redis_is_away(
    away: Redis, read_settings: ReadSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_connection, "RECONNECT_DELAY", 3600)
    queue = TaskQueue(away, read_settings())
    attempts: list[Callable[[], Any]] = [
        lambda: accept(queue),
        lambda: find(queue, "an-id"),
        lambda: wait(queue, "an-id", 1),
        lambda: LOOP.run(queue.cancel("an-id")),
        lambda: LOOP.run(queue.workers()),
    ]
    for attempt in attempts:
        with pytest.raises(RedisError):
            attempt()


def test_the_end_of_a_task_that_waits_is_estimated(queue: TaskQueue, redis: Redis) -> None:
    first, second = (accept(queue).task_id for _ in "12")
    redis.hset(keys.RUN_TIMES, mapping={"count": 20, "mean": 10})
    redis.sadd(keys.WORKERS, "worker@iris")
    redis.hset(keys.worker("worker@iris"), mapping={"state": "UP", "process:host/1": "UP "})
    records = [find(queue, task_id) for task_id in (first, second)]
    assert [record.eta for record in records if record] == [10, 20]


def test_nothing_is_estimated_without_enough_runs(queue: TaskQueue, redis: Redis) -> None:
    record = find(queue, accept(queue).task_id)
    assert record is not None
    assert (record.position, record.eta) == (1, None)


def test_the_speed_of_the_queue_is_measured_once_a_second_at_most(
    queue: TaskQueue, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = accept(queue).task_id
    with counted_commands(redis) as commands:
        for _ in range(5):
            find(queue, task_id)
    assert commands.count("smembers") == 1
    monkeypatch.setattr(queue_client, "SPEED_LIFETIME", 0.0)
    queue._speed_until = 0.0
    with counted_commands(redis) as commands:
        for _ in range(5):
            find(queue, task_id)
    assert commands.count("smembers") == 5
