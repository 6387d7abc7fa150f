"""report_writer.py: reports of a process' tasks, on a real Redis that may be away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from doubles.flaky_redis import FlakyRedis
from redis import Redis, RedisError
from support.records import record_of
from support.waiting import until

from app.serving.store import keys
from app.serving.store.claims import Claims
from app.serving.store.connection import connect
from app.serving.store.reports import MAX_OUTPUT_BYTES, MAX_OUTPUTS, ReportStore
from app.serving.store.tasks import TaskStore
from app.serving.worker.batching.report_writer import PROGRESS_INTERVAL, ReportWriter

Taken = Callable[..., Any]


class Writes(ReportStore):
    """Counts writes, and fails while it is to."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self.times: list[float] = []
        self.is_away = False

    def write(self, holder: str, reports: Any) -> None:
        if self.is_away:
            raise RedisError("away")
        self.times.append(time.monotonic())
        super().write(holder, reports)


@pytest.fixture
def store(broker: Redis) -> Writes:
    return Writes(broker)


@pytest.fixture
def writer(store: Writes, claims: Claims, taken: Taken) -> ReportWriter:
    """That of a process which has the tasks a and b."""
    taken(a=1)
    taken(b=2)
    return ReportWriter(store, lambda: claims.holder)


def shown(records: TaskStore, task_id: str = "a") -> Any:
    text = record_of(records, task_id).progress
    return None if text is None else json.loads(text)


def outputs(redis: Redis) -> list[str]:
    return list(redis.lrange(keys.output("a"), 0, -1))  # type: ignore[arg-type]


def test_progress_is_written_without_a_flush(writer: ReportWriter, records: TaskStore) -> None:
    writer.progress(["a", "b"], 0.4, "page 4 of 10")
    until(lambda: shown(records, "b"), what="progress of both")
    assert shown(records) == shown(records, "b") == {"fraction": 0.4, "message": "page 4 of 10"}


def test_about_ten_reports_a_second_are_written_and_the_last_one(
    writer: ReportWriter, store: Writes, records: TaskStore
) -> None:
    began = time.monotonic()
    number = 0
    while time.monotonic() - began < 0.5:
        number += 1
        writer.progress(["a"], None, str(number))
    until(lambda: shown(records)["message"] == str(number), what="the last report")
    assert number > 1000
    assert len(store.times) <= 0.5 / PROGRESS_INTERVAL + 2
    gaps = [later - earlier for earlier, later in zip(store.times, store.times[1:], strict=False)]
    assert min(gaps) > PROGRESS_INTERVAL * 0.9


def test_output_is_written_in_order_and_sooner(writer: ReportWriter, store: Writes, redis: Redis) -> None:
    for number in range(300):
        writer.output(["a"], str(number))
        time.sleep(0.001)
    writer.flush()
    assert outputs(redis) == [str(number) for number in range(300)]
    assert len(store.times) < 60


def test_a_flush_writes_what_is_left_and_begins_anew(writer: ReportWriter, redis: Redis, records: TaskStore) -> None:
    writer.output(["a"], "1")
    writer.progress(["a"], 1, "done")
    writer.flush()
    assert (outputs(redis), shown(records)) == (["1"], {"fraction": 1, "message": "done"})
    writer.output(["a"], "1 again")
    writer.flush()
    assert outputs(redis) == ["1"], "a new run of the task counts its outputs from the start"


def test_while_redis_is_away_reports_wait_and_nobody_else(
    writer: ReportWriter, store: Writes, redis: Redis, records: TaskStore
) -> None:
    store.is_away = True
    began = time.monotonic()
    for number in range(2000):
        writer.progress(["a"], 0.5, str(number))
        writer.output(["a"], str(number))
    assert time.monotonic() - began < 1
    store.is_away = False
    until(lambda: len(outputs(redis)) == 2000, what="all outputs")
    assert outputs(redis) == [str(number) for number in range(2000)]
    until(lambda: shown(records)["message"] == "1999", what="the last report")


def test_a_broken_connection_repeats_nothing(claims: Claims, taken: Taken, flaky: FlakyRedis, redis: Redis) -> None:
    taken(a=1)
    writer = ReportWriter(ReportStore(connect(flaky.url)), lambda: claims.holder)
    flaky.lose_answer_to("text 7")
    for number in range(20):
        writer.output(["a"], f'"text {number}"')
    writer.flush()
    assert outputs(redis) == [f'"text {number}"' for number in range(20)]
    assert flaky.lost_answers == 1


@pytest.mark.parametrize(
    ("text", "kept"), [("1", MAX_OUTPUTS), ("x" * 100_000, MAX_OUTPUT_BYTES // 100_000)], ids=["number", "bytes"]
)
def test_what_waits_for_redis_is_bounded(
    text: str, kept: int, writer: ReportWriter, store: Writes, redis: Redis
) -> None:
    store.is_away = True
    for _ in range(kept + 100):
        writer.output(["a"], text)
    (news,) = writer._news.values()
    assert len(news.outputs) == kept
    store.is_away = False
    writer.flush()
    assert redis.hmget(keys.task("a"), ["outputs", "outputs_from"]) == [str(kept + 100), "100"]


def test_beyond_the_memory_limit_reports_are_dropped(
    writer: ReportWriter, redis: Redis, memory_full: Callable[[], AbstractContextManager[None]]
) -> None:
    with memory_full():
        writer.output(["a"], "1")
        until(lambda: not writer._news, what="the report dropped")
        with writer._writing:
            pass
    writer.output(["a"], "2")
    writer.flush()
    assert outputs(redis) == ["2"]
    assert redis.hmget(keys.task("a"), ["outputs", "outputs_from"]) == ["2", "1"]


def test_lone_surrogates_are_replaced(writer: ReportWriter, records: TaskStore) -> None:
    writer.progress(["a"], None, "\ud800 é")
    writer.flush()
    assert shown(records)["message"] == "? é"


def test_reports_of_a_task_that_went_elsewhere_are_void(
    writer: ReportWriter, claims: Claims, records: TaskStore, store: Writes, redis: Redis
) -> None:
    claims.requeue(["a"])
    writer.output(["a"], "1")
    writer.progress(["a"], 0.5, "")
    writer.flush()
    assert (outputs(redis), shown(records)) == ([], None)


def test_newer_reports_follow_older_ones_that_could_not_be_written(
    writer: ReportWriter, store: Writes, redis: Redis
) -> None:
    """Also where the newer ones alone are more than is kept."""
    store.is_away = True
    writer.output(["a"], "0")
    until(lambda: not writer._writing.locked() and writer._news, what="the first try")
    for number in range(1, MAX_OUTPUTS + 2):
        writer.output(["a"], str(number))
    store.is_away = False
    writer.flush()
    assert redis.hmget(keys.task("a"), ["outputs", "outputs_from"]) == [str(MAX_OUTPUTS + 2), "2"]
    assert outputs(redis)[0] == "2"
