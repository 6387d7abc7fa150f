"""streams.py over store/loop: readers of tasks' events, on a real Redis that may be away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from doubles.flaky_redis import FlakyRedis, flaky_redis
from redis import Redis, RedisError
from support.asgi_client import LOOP
from support.redis_server import counted_commands
from support.waiting import until

from app.serving.queue import streams as module
from app.serving.queue.client import TaskQueue
from app.serving.queue.streams import TaskStream, TooManyStreams
from app.serving.queue.submission import TaskRequest
from app.serving.queue.task_events import Cursor, Event
from app.serving.queue.waiting import Preferences
from app.serving.settings import Settings
from app.serving.store import keys
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.connection import connect
from app.serving.store.loop import connection as loop_connection
from app.serving.store.loop import followed
from app.serving.store.reports import Report, ReportStore
from app.serving.store.tasks import TaskStore

OpenQueue = Callable[..., TaskQueue]
LIMITS = ClaimLimits(deliveries=3, ttl=60)


@pytest.fixture
def queue(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> TaskQueue:
    monkeypatch.setattr(module, "POSITION_INTERVAL", 0.05)
    return open_queue()


@pytest.fixture
def claims(broker: Redis) -> Iterator[Claims]:
    claims = Claims(broker, LIMITS, "host/1")
    yield claims
    claims.close()


@pytest.fixture
def reports(broker: Redis) -> ReportStore:
    return ReportStore(broker)


def submit(queue: TaskQueue) -> str:
    submitted = queue.submit(lambda: TaskRequest(verified={"x": 1}), Preferences(respond_async=True))
    return LOOP.run(submitted).task_id


class Reader:
    """Reads a stream to its end in the background."""

    def __init__(self, queue: TaskQueue, task_id: str, cursor: Cursor = Cursor()) -> None:  # noqa: B008
        stream = LOOP.run(queue.streams.open(task_id, cursor))
        assert stream is not None
        self.stream: TaskStream = stream
        self.events: list[Event] = []
        self._reading: Future[None] = LOOP.start(self._read())

    async def _read(self) -> None:
        while events := await self.stream.next():
            self.events += events

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    @property
    def outputs(self) -> list[Any]:
        return [json.loads(event.data or "") for event in self.events if event.name == "output"]

    def until(self, name: str, number: int = 1) -> None:
        until(lambda: self.names.count(name) >= number, what=f"event {number} {name} behind {self.names}")

    def close(self) -> None:
        LOOP.call(self.stream.close)
        self.join()

    def join(self) -> None:
        self._reading.result(30)


def test_a_reader_follows_a_task_from_the_queue_to_its_end(
    queue: TaskQueue, claims: Claims, reports: ReportStore, records: TaskStore
) -> None:
    before, task_id = submit(queue), submit(queue)
    reader = Reader(queue, task_id)
    reader.until("waiting")
    claims.take(limit=1)
    reader.until("waiting", 2)
    claims.take(limit=1)
    reader.until("started")
    reports.write(claims.holder, [Report(task_id, '{"fraction": 0.5}', 0, ["1", "2"])])
    reader.until("progress")
    records.complete(task_id, "SUCCESS", {"a": 1}, ttl=60)
    reader.join()
    assert reader.names == ["waiting", "waiting", "started", "output", "output", "progress", "ended"]
    assert [json.loads(event.data or "")["position"] for event in reader.events[:2]] == [2, 1]
    record = reader.stream.record
    assert record is not None
    assert (record.status, record.text) == ("SUCCESS", '{"a": 1}')
    assert before != task_id


def test_a_restart_is_seen_and_the_new_output_follows(
    queue: TaskQueue, claims: Claims, reports: ReportStore, records: TaskStore
) -> None:
    task_id = submit(queue)
    reader = Reader(queue, task_id)
    claims.take(limit=1)
    reports.write(claims.holder, [Report(task_id, "", 0, ["1", "2"])])
    reader.until("output", 2)
    claims.requeue([task_id])
    reader.until("waiting", 2)
    claims.take(limit=1)
    reports.write(claims.holder, [Report(task_id, "", 0, ["11"])])
    reader.until("output", 3)
    records.complete(task_id, "SUCCESS", {}, ttl=60)
    reader.join()
    assert reader.names[-5:] == ["restarted", "waiting", "started", "output", "ended"]
    assert reader.outputs == [1, 2, 11]


def test_a_cancelled_task_ends_its_stream(queue: TaskQueue, records: TaskStore) -> None:
    task_id = submit(queue)
    reader = Reader(queue, task_id)
    reader.until("waiting")
    records.cancel(task_id, ttl=60)
    reader.join()
    assert reader.names == ["waiting", "ended"]
    assert reader.stream.record is not None
    assert reader.stream.record.status == "REVOKED"


def test_much_output_is_read_in_parts(
    queue: TaskQueue, claims: Claims, reports: ReportStore, records: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "MAX_OUTPUTS_READ", 7)
    monkeypatch.setattr(followed, "MAX_BYTES_READ", 12)
    task_id = submit(queue)
    claims.take(limit=1)
    texts = [json.dumps("x" * (number % 20)) for number in range(100)]
    reports.write(claims.holder, [Report(task_id, "{}", 0, texts)])
    records.complete(task_id, "SUCCESS", {}, ttl=60)
    reader = Reader(queue, task_id)
    reader.join()
    assert reader.names == ["started", *["output"] * 100, "progress", "ended"]
    assert reader.outputs == ["x" * (number % 20) for number in range(100)]


def test_a_reader_that_takes_nothing_reads_nothing(
    queue: TaskQueue, claims: Claims, reports: ReportStore, redis: Redis
) -> None:
    """So a slow one holds one part in memory, however much there is."""
    task_id = submit(queue)
    claims.take(limit=1)
    stream = LOOP.run(queue.streams.open(task_id, Cursor()))
    assert stream is not None
    with counted_commands(redis) as commands:
        for number in range(20):
            reports.write(claims.holder, [Report(task_id, "", number, ["1"])])
    assert commands == ["evalsha"] * 20
    assert [event.name for event in LOOP.run(stream.next())] == ["started"]
    assert [event.name for event in LOOP.run(stream.next())] == ["output"] * 20
    LOOP.call(stream.close)


def test_a_reader_resumes_behind_its_last_event(
    queue: TaskQueue, claims: Claims, reports: ReportStore, records: TaskStore
) -> None:
    task_id = submit(queue)
    reader = Reader(queue, task_id)
    claims.take(limit=1)
    reports.write(claims.holder, [Report(task_id, "", 0, ["1", "2"])])
    reader.until("output", 2)
    reader.close()
    reports.write(claims.holder, [Report(task_id, "", 2, ["3"])])
    resumed = Reader(queue, task_id, reader.events[-1].cursor)
    resumed.until("output")
    records.complete(task_id, "SUCCESS", {}, ttl=60)
    resumed.join()
    assert (resumed.names, resumed.outputs) == (["output", "ended"], [3])


def test_a_wait_that_is_given_up_loses_nothing(queue: TaskQueue, claims: Claims, records: TaskStore) -> None:
    task_id = submit(queue)
    claims.take(limit=1)

    async def read() -> list[str]:
        stream = await queue.streams.open(task_id, Cursor())
        assert stream is not None
        names = [event.name for event in await stream.next()]
        for _ in range(20):
            try:
                async with asyncio.timeout(0.005):
                    await stream.next()
            except TimeoutError:
                names.append("silence")
        records.complete(task_id, "SUCCESS", {}, ttl=60)
        return [*names, *(event.name for event in await stream.next())]

    assert LOOP.run(read()) == ["started", *["silence"] * 20, "ended"]


def test_an_unknown_task_has_no_stream(queue: TaskQueue) -> None:
    assert LOOP.run(queue.streams.open("never", Cursor())) is None
    assert queue.streams._streams == {}


def test_streams_are_bounded(queue: TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 2)
    task_id = submit(queue)
    readers = [Reader(queue, task_id) for _ in "12"]
    with pytest.raises(TooManyStreams):
        LOOP.run(queue.streams.open(task_id, Cursor()))
    readers[0].close()
    Reader(queue, task_id).close()
    readers[1].close()


def test_all_streams_share_one_connection_and_leave_nothing(queue: TaskQueue, redis: Redis) -> None:
    task_ids = [submit(queue) for _ in range(20)]
    before = len(redis.client_list())  # type: ignore[arg-type]
    readers = [Reader(queue, task_id) for task_id in task_ids * 2]
    for reader in readers:
        reader.until("waiting")
    # That of the streams, and that of look-ups, for the estimate.
    assert len(redis.client_list()) <= before + 2  # type: ignore[arg-type]
    assert len(redis.pubsub_channels(f"{keys.CHANGES}*")) == 20  # type: ignore[arg-type]
    for reader in readers:
        reader.close()
    until(lambda: redis.pubsub_channels(f"{keys.CHANGES}*") == [], what="no subscription")
    assert queue.streams._streams == {}
    until(lambda: queue.streams._poll is None, what="no look at positions")


def test_a_stream_outlasts_an_outage_of_redis(
    redis_url: str,
    flaky: FlakyRedis,
    claims: Claims,
    reports: ReportStore,
    records: TaskStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for owner, name in ((loop_connection, "RECONNECT_DELAY"), (module, "RETRY_INTERVAL")):
        monkeypatch.setattr(owner, name, 0.05)
    queue = TaskQueue(connect(flaky.url), Settings.from_environment({"REDIS_URL": flaky.url}))
    task_id = submit(queue)
    claims.take(limit=1)
    reader = Reader(queue, task_id)
    reader.until("started")
    flaky.go_away()
    reports.write(claims.holder, [Report(task_id, "", 0, ["1"])])
    until(lambda: flaky.refused > 2, what="tries to connect")
    flaky.come_back()
    reader.until("output")
    records.complete(task_id, "SUCCESS", {}, ttl=60)
    reader.join()
    assert reader.names == ["started", "output", "ended"]
    LOOP.call(queue.close)


def test_without_redis_no_stream_opens(away: Redis, redis_url: str) -> None:
    queue = TaskQueue(away, Settings.from_environment({"REDIS_URL": redis_url}))
    with pytest.raises(RedisError):
        LOOP.run(queue.streams.open("a", Cursor()))
    assert queue.streams._streams == {}
    LOOP.call(queue.close)


def test_closing_the_queue_ends_all_streams(queue: TaskQueue) -> None:
    reader = Reader(queue, submit(queue))
    reader.until("waiting")
    LOOP.call(queue.streams.close)
    reader.join()
    assert reader.names == ["waiting"]


@pytest.fixture
def flaky(redis_url: str) -> Iterator[FlakyRedis]:
    with flaky_redis(redis_url) as proxy:
        yield proxy


def test_the_estimate_stands_beside_the_position(queue: TaskQueue, redis: Redis) -> None:
    redis.hset(keys.RUN_TIMES, mapping={"count": 20, "mean": 10})
    redis.sadd(keys.WORKERS, "worker@iris")
    redis.hset(keys.worker("worker@iris"), mapping={"state": "UP", "process:host/1": "UP "})
    reader = Reader(queue, submit(queue))
    reader.until("waiting")
    reader.close()
    assert json.loads(reader.events[0].data or "")["eta_seconds"] == 10


def test_a_thousand_outputs_take_few_looks(
    queue: TaskQueue, claims: Claims, reports: ReportStore, records: TaskStore, redis: Redis
) -> None:
    task_id = submit(queue)
    claims.take(limit=1)
    reports.write(claims.holder, [Report(task_id, "", 0, ["1"] * 1000)])
    records.complete(task_id, "SUCCESS", {}, ttl=60)
    began = time.monotonic()
    with counted_commands(redis) as commands:
        reader = Reader(queue, task_id)
        reader.join()
    assert len(reader.outputs) == 1000
    assert commands.count("evalsha") == 2
    assert time.monotonic() - began < 5
