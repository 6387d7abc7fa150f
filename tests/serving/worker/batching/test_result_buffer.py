"""result_buffer.py: results that wait for the end of their batch, but not long; on a real Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from doubles.flaky_redis import FlakyRedis
from redis import Redis
from support.records import record_of
from support.waiting import until

from app.serving.store.connection import connect
from app.serving.store.tasks import PENDING, SUCCESS, Completion, TaskStore
from app.serving.worker.batching.result_buffer import MAX_BUFFERED_BYTES, ResultBuffer

Accept = Callable[..., None]


@pytest.fixture
def results(records: TaskStore) -> ResultBuffer:
    return ResultBuffer(records, ttl=60, sleep=pytest.fail)


def end_of(task_id: str, result: str = "{}") -> Completion:
    return Completion(task_id, SUCCESS, result)


def test_what_no_task_is_behind_is_the_callers_to_store(
    results: ResultBuffer, accept: Accept, records: TaskStore
) -> None:
    accept(a=1, b=2)
    results.add(end_of("a"), more=False)
    results.add(end_of("b"), more=False)
    assert results.take() == [end_of("a"), end_of("b")]
    assert results.take() == []
    assert record_of(records, "a").status == PENDING
    results.store([end_of("a"), end_of("b")])
    assert [record_of(records, task).status for task in "ab"] == [SUCCESS] * 2


def test_a_result_is_stored_soon_when_a_task_behind_it_runs_long(
    results: ResultBuffer, accept: Accept, records: TaskStore
) -> None:
    accept(a=1, b=2, c=3)
    for task_id in "abc":
        results.add(end_of(task_id), more=True)
        until(lambda task_id=task_id: record_of(records, task_id).is_finished, within=5, what="the result")
    assert results.take() == []


def test_large_results_are_stored_at_once(results: ResultBuffer, accept: Accept, records: TaskStore) -> None:
    accept(a=1, b=2)
    large = end_of("a", f'"{"x" * MAX_BUFFERED_BYTES}"')
    results.add(large, more=False)
    results.add(end_of("b"), more=False)
    assert results.take() == [end_of("b")]
    assert record_of(records, "a").text == large.result


def test_results_are_stored_as_soon_as_redis_is_back(
    flaky: FlakyRedis, accept: Accept, records: TaskStore, caplog: pytest.LogCaptureFixture
) -> None:
    accept(a=1)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 7:
            flaky.come_back()

    with connect(flaky.url) as client:
        flaky.go_away()
        ResultBuffer(TaskStore(client), ttl=60, sleep=sleep).store([end_of("a")])
    assert record_of(records, "a").status == SUCCESS
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert "1 results could not be stored, trying again" in caplog.text


def test_taking_waits_for_what_is_being_stored(flaky: FlakyRedis, accept: Accept, redis: Redis) -> None:
    """Else its task would be requeued, and run again, by a process that takes stock."""
    accept(a=1)
    with connect(flaky.url) as client:
        is_trying = threading.Event()

        def sleep(seconds: float) -> None:
            is_trying.set()
            until(lambda: not flaky.is_away, what="Redis")

        buffer = ResultBuffer(TaskStore(client), ttl=60, sleep=sleep)
        flaky.go_away()
        buffer.add(end_of("a"), more=True)
        assert is_trying.wait(20)
        taking = threading.Thread(target=buffer.take)
        taking.start()
        taking.join(0.1)
        assert taking.is_alive()
        flaky.come_back()
        taking.join(20)
        assert not taking.is_alive()
        assert record_of(TaskStore(redis), "a").status == SUCCESS
