"""reports.py: progress and output of running tasks in Redis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError
from support.records import record_of

from app.serving.store import keys, reports
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.dead_letters import DeadLetters
from app.serving.store.messages import task_message
from app.serving.store.reports import Report, ReportStore
from app.serving.store.tasks import TaskStore

LIMITS = ClaimLimits(deliveries=2, ttl=60)


@pytest.fixture
def claims(broker: Redis, records: TaskStore) -> Iterator[Claims]:
    """A process that has claimed the task `a`."""
    records.enqueue("a", task_message("a", None), callback_uri=None, queue_limit=10)
    claims = Claims(broker, LIMITS, "host/1")
    claims.take(limit=1)
    yield claims
    claims.close()


@pytest.fixture
def store(broker: Redis) -> ReportStore:
    return ReportStore(broker)


def outputs(redis: Redis) -> list[str]:
    return list(redis.lrange(keys.output("a"), 0, -1))  # type: ignore[arg-type]


def numbers(redis: Redis) -> list[int]:
    """The number of outputs, of those that are not kept, and of the bytes of those that are."""
    return [int(one or 0) for one in redis.hmget(keys.task("a"), ["outputs", "outputs_from", "output_bytes"])]


def test_the_latest_progress_of_a_running_task_is_kept(claims: Claims, store: ReportStore, records: TaskStore) -> None:
    for fraction in (0.1, 0.2):
        store.write(claims.holder, [Report("a", json.dumps({"fraction": fraction}), 0, [])])
    assert record_of(records, "a").progress == '{"fraction": 0.2}'


def test_outputs_are_appended(claims: Claims, store: ReportStore, redis: Redis) -> None:
    store.write(claims.holder, [Report("a", "", 0, ["1", "2"])])
    store.write(claims.holder, [Report("a", "", 2, ['"é"'])])
    assert outputs(redis) == ["1", "2", '"é"']
    assert numbers(redis) == [3, 0, 6]


def test_a_repeated_write_changes_nothing(claims: Claims, store: ReportStore, redis: Redis) -> None:
    """As after an answer that was lost."""
    for before, new in ((0, ["1", "2"]), (0, ["1", "2"]), (0, ["1", "2", "3"]), (2, ["3"])):
        store.write(claims.holder, [Report("a", "", before, new)])
    assert outputs(redis) == ["1", "2", "3"]
    assert numbers(redis) == [3, 0, 3]


def test_what_was_refused_in_between_counts(claims: Claims, store: ReportStore, redis: Redis) -> None:
    store.write(claims.holder, [Report("a", "", 0, ["1", "2"])])
    store.write(claims.holder, [Report("a", "", 5, ["6"])])
    assert outputs(redis) == ["6"]
    assert numbers(redis) == [6, 5, 1]


@pytest.mark.parametrize(
    ("limit", "value", "kept"), [("MAX_OUTPUTS", 2, ["33", "44"]), ("MAX_OUTPUT_BYTES", 5, ["33", "44"])]
)
def test_of_much_output_the_latest_is_kept(
    limit: str,
    value: int,
    kept: list[str],
    claims: Claims,
    store: ReportStore,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reports, limit, value)
    store.write(claims.holder, [Report("a", "", 0, ["11", "22", "33"])])
    store.write(claims.holder, [Report("a", "", 3, ["44"])])
    assert outputs(redis) == kept
    assert numbers(redis) == [4, 2, 4]


def test_an_output_beyond_the_limit_leaves_none(
    claims: Claims, store: ReportStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MAX_OUTPUT_BYTES", 5)
    store.write(claims.holder, [Report("a", "", 0, ["1", '"long output"'])])
    assert outputs(redis) == []
    assert numbers(redis) == [2, 2, 0]


def test_outputs_that_are_too_long_to_be_passed_on_count(claims: Claims, store: ReportStore, redis: Redis) -> None:
    store.write(claims.holder, [Report("a", "", 0, ["1"])])
    store.write(claims.holder, [Report("a", "", 3, [])])
    assert outputs(redis) == []
    assert numbers(redis) == [3, 3, 0]
    store.write(claims.holder, [Report("a", "{}", 3, [])])
    assert numbers(redis) == [3, 3, 0]


def test_another_owners_report_is_void(claims: Claims, store: ReportStore, records: TaskStore, redis: Redis) -> None:
    earlier = claims.holder
    claims.epoch += 1
    for holder in ("host/2.0", claims.holder):
        store.write(holder, [Report("a", "{}", 0, ["1"]), Report("unknown", "{}", 0, ["1"])])
    assert record_of(records, "a").progress is None
    assert outputs(redis) == []
    assert not redis.exists(keys.task("unknown"), keys.output("unknown"))
    store.write(earlier, [Report("a", "{}", 0, ["1"])])
    assert outputs(redis) == ["1"]


def test_a_report_after_the_end_is_void(claims: Claims, store: ReportStore, records: TaskStore, redis: Redis) -> None:
    store.write(claims.holder, [Report("a", "{}", 0, ["1"])])
    records.cancel("a", ttl=60)
    store.write(claims.holder, [Report("a", '{"fraction": 1}', 1, ["2"])])
    assert (record_of(records, "a").progress, outputs(redis)) == ("{}", ["1"])


def test_output_expires_with_the_result(claims: Claims, store: ReportStore, records: TaskStore, redis: Redis) -> None:
    store.write(claims.holder, [Report("a", "", 0, ["1"])])
    assert redis.ttl(keys.output("a")) == -1
    records.complete("a", "SUCCESS", {}, ttl=60)
    assert 0 < redis.ttl(keys.output("a")) <= 60


@pytest.mark.parametrize("died", [False, True])
def test_a_requeue_voids_what_was_reported(
    died: bool, claims: Claims, store: ReportStore, records: TaskStore, redis: Redis
) -> None:
    store.write(claims.holder, [Report("a", "{}", 0, ["1"])])
    claims.requeue_all(["a"] if died else [])
    record = record_of(records, "a")
    assert (record.progress, record.times.started, outputs(redis)) == (None, None, [])
    claims.take(limit=1)
    store.write(claims.holder, [Report("a", "", 0, ["2"])])
    assert outputs(redis) == ["2"]
    assert redis.hget(keys.task("a"), "restarts") == "1"


def test_a_replayed_dead_letter_begins_without_output(
    claims: Claims, store: ReportStore, broker: Redis, records: TaskStore, redis: Redis
) -> None:
    claims.requeue_all(["a"])
    claims.take(limit=1)
    store.write(claims.holder, [Report("a", "", 0, ["1"])])
    claims.requeue_all(["a"])
    assert record_of(records, "a").status == "FAILURE"
    assert DeadLetters(broker).replay("a")
    assert outputs(redis) == []
    assert redis.hget(keys.task("a"), "restarts") == "2"


def test_beyond_the_memory_limit_reports_are_refused(
    claims: Claims, store: ReportStore, memory_full: Callable[[], AbstractContextManager[None]]
) -> None:
    with memory_full(), pytest.raises(OutOfMemoryError):
        store.write(claims.holder, [Report("a", "{}", 0, ["1"])])


def test_changes_are_announced_for_a_followed_task_alone(
    claims: Claims, store: ReportStore, records: TaskStore, redis: Redis
) -> None:
    with redis.pubsub() as listening:
        listening.subscribe(keys.changes("a"))
        listening.get_message(timeout=5)
        store.write(claims.holder, [Report("a", "{}", 0, [])])
        redis.hset(keys.task("a"), "followed", 1)
        store.write(claims.holder, [Report("a", "{}", 0, [])])
        claims.requeue(["a"])
        claims.take(limit=1)
        records.complete("a", "SUCCESS", {}, ttl=60)
        redis.publish(keys.changes("a"), "that is all")
        announced = []
        while announced[-1:] != ["that is all"]:
            message = listening.get_message(timeout=5)
            assert message is not None
            announced.append(message["data"])
    assert announced == ["", "", "", "", "that is all"]
