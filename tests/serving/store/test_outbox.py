"""outbox.py: states of a callback in Redis."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis, RedisError
from support.callbacks import report
from support.waiting import in_threads, until

from app.serving.store import keys, outbox
from app.serving.store.dead_letters import DeadLetters
from app.serving.store.outbox import AttemptResult, Callback, Outbox
from app.serving.store.tasks import CallbackReport, TaskStore

DELIVERED = AttemptResult(status=200, delivered=True)
GIVEN_UP = AttemptResult(status=404, error="answered 404")


@pytest.fixture
def box(broker: Redis) -> Outbox:
    return Outbox(broker, result_ttl=60, callback_ttl=600)


def end(records: TaskStore, task_id: str = "the-id", receiver: str = "receiver.example", **result: Any) -> None:
    """A task that was accepted, and has ended."""
    uri = f"http://{receiver}/stash"
    records.enqueue(task_id, "message", callback_uri=uri, queue_limit=100_000)
    records.complete(task_id, "SUCCESS", result, ttl=60)


def take(box: Outbox, *, free: int = 512, per_endpoint: int = 16, busy: dict[str, int] | None = None) -> list[Callback]:
    return box.take(free=free, per_endpoint=per_endpoint, busy=busy)[0]


def take_one(box: Outbox) -> Callback:
    (callback,) = take(box)
    return callback


def again(retry_in: float, *, away: bool = True) -> AttemptResult:
    return AttemptResult(error="Connection refused", retry_in=retry_in, endpoint_down=away)


def ids(callbacks: list[Callback]) -> list[str]:
    return [callback.task_id for callback in callbacks]


def traces(redis: Redis) -> list[str]:
    """The keys of callbacks that are left in Redis."""
    others = (keys.TASK, keys.QUEUE, keys.WAITING, keys.ACCEPTED)
    return sorted(key for key in redis.scan_iter() if key not in others and not key.startswith(keys.TASK))


def test_a_callback_is_leased_with_all_that_is_sent(box: Outbox, records: TaskStore) -> None:
    end(records, a=1)
    callback = take_one(box)
    assert (callback.task_id, callback.webhook_id) == ("the-id", "the-id")
    assert (callback.uri, callback.endpoint) == ("http://receiver.example/stash", "receiver.example:80")
    assert (callback.status, callback.result) == ("SUCCESS", '{"a": 1}')
    assert (callback.attempts, callback.since_first) == (0, 0)


def test_a_callback_is_leased_once(box: Outbox, records: TaskStore) -> None:
    for number in range(200):
        end(records, f"task-{number}", f"host-{number % 20}")
    taken: list[str] = []

    def take_all(_: int) -> None:
        while callbacks := take(box):
            taken.extend(ids(callbacks))

    in_threads(4, take_all)
    assert sorted(taken) == sorted(f"task-{number}" for number in range(200))


def test_the_sender_is_woken_while_a_callback_waits(box: Outbox, records: TaskStore) -> None:
    assert not box.wait(0.01)
    end(records, "a")
    end(records, "b")
    assert box.wait(1)
    assert not box.wait(0.01)


def test_a_delivered_callback_leaves_nothing_but_its_record(box: Outbox, records: TaskStore, redis: Redis) -> None:
    end(records)
    callback = take_one(box)
    assert redis.ttl(keys.task("the-id")) == -1
    box.settle([(callback, DELIVERED)])
    redis.delete(keys.WAKEUP)
    assert traces(redis) == []
    assert 0 < int(redis.ttl(keys.task("the-id"))) <= 60
    assert report(records) == CallbackReport(state="DELIVERED", attempts=1)


def test_a_failed_attempt_is_recorded_and_waits(box: Outbox, records: TaskStore) -> None:
    end(records)
    box.settle([(take_one(box), again(3600))])
    callbacks, next_in = box.take(free=1, per_endpoint=1)
    assert callbacks == []
    assert next_in is not None
    assert 3000 < next_in <= 3600
    assert report(records) == CallbackReport(state="PENDING", attempts=1, last_error="Connection refused")


def test_a_failed_attempt_is_repeated_when_it_is_due(box: Outbox, records: TaskStore) -> None:
    end(records)
    box.settle([(take_one(box), again(0.2))])
    (callback,) = until(lambda: take(box), what="the second attempt")
    assert callback.attempts == 1
    assert 0.1 < callback.since_first < 60
    assert callback.webhook_id == "the-id"


def test_a_failed_callback_is_kept_for_its_time(box: Outbox, records: TaskStore, redis: Redis) -> None:
    end(records)
    box.settle([(take_one(box), GIVEN_UP)])
    assert take(box) == []
    assert 60 < int(redis.ttl(keys.task("the-id"))) <= 600
    (kept,) = box.undelivered()
    assert (kept.state, kept.attempts, kept.last_status, kept.last_error) == ("FAILED", 1, 404, "answered 404")
    assert kept.next_try is None
    redis.delete(keys.WAKEUP)
    assert traces(redis) == [keys.UNDELIVERED]


def test_a_result_is_kept_longer_than_a_short_callback_lifetime(
    broker: Redis, records: TaskStore, redis: Redis
) -> None:
    box = Outbox(broker, result_ttl=600, callback_ttl=60)
    end(records)
    box.settle([(take_one(box), GIVEN_UP)])
    assert 60 < int(redis.ttl(keys.task("the-id"))) <= 600


def test_callbacks_whose_record_expired_are_pruned(box: Outbox, records: TaskStore, redis: Redis) -> None:
    for task_id in "ab":
        end(records, task_id)
        box.settle([(take_one(box), GIVEN_UP)])
    redis.delete(keys.task("a"))
    assert box.prune() == 0
    assert redis.zrange(keys.UNDELIVERED, 0, -1) == ["b"]
    redis.delete(keys.task("b"))
    assert box.prune() == 0
    assert redis.exists(keys.UNDELIVERED) == 0


def test_a_list_of_what_was_not_delivered_changes_nothing(box: Outbox, records: TaskStore, redis: Redis) -> None:
    """A task without a record at one moment may have one at the next, as one that is replayed."""
    for task_id in "ab":
        end(records, task_id)
    record = redis.dump(keys.task("a"))
    redis.delete(keys.task("a"))
    assert [one.task_id for one in box.undelivered()] == ["b"]
    redis.restore(keys.task("a"), 0, record)  # type: ignore[arg-type]
    assert [one.task_id for one in box.undelivered()] == ["a", "b"]


def test_a_waiting_callback_without_a_record_is_passed_over(box: Outbox, records: TaskStore, redis: Redis) -> None:
    end(records, "gone")
    end(records, "there")
    redis.delete(keys.task("gone"))
    assert ids(take(box)) == ["there"]
    assert redis.zrange(keys.UNDELIVERED, 0, -1) == ["there"]


def test_no_endpoint_gets_more_than_its_share(box: Outbox, records: TaskStore) -> None:
    for number in range(50):
        end(records, f"busy-{number}", "busy")
        end(records, f"calm-{number}", "calm")
    taken = Counter(callback.endpoint for callback in take(box, per_endpoint=4, busy={"busy:80": 3}))
    assert taken == {"busy:80": 1, "calm:80": 4}
    assert {one.endpoint for one in take(box, per_endpoint=4, busy={"busy:80": 4})} == {"calm:80"}


def end_large(records: TaskStore, *sizes: int) -> None:
    """Tasks of receivers of their own, each with a result of so many MB."""
    for number, size in enumerate(sizes):
        end(records, f"large-{number}", f"host-{number}", a="x" * (size * 1024 * 1024))


def test_large_results_are_leased_in_parts(box: Outbox, records: TaskStore) -> None:
    end_large(records, *[3] * 8)
    assert ids(take(box)) == [f"large-{number}" for number in range(6)]
    assert ids(take(box)) == ["large-6", "large-7"]


def test_a_large_crowd_for_one_endpoint_is_leased_in_parts(box: Outbox, records: TaskStore) -> None:
    for number in range(8):
        end(records, f"task-{number}", a="x" * 3 * 1024 * 1024)
    assert [len(take(box)), len(take(box))] == [6, 2]


def test_a_result_of_any_size_is_leased(box: Outbox, records: TaskStore) -> None:
    end_large(records, 20, 20)
    assert ids(box.take(free=10, per_endpoint=10, free_bytes=1)[0]) == ["large-0"]
    assert box.take(free=10, per_endpoint=10, free_bytes=0) == ([], None)
    assert ids(take(box)) == ["large-1"]


def test_no_more_is_leased_than_there_are_free_places(box: Outbox, records: TaskStore) -> None:
    for number in range(10):
        end(records, f"task-{number}", f"host-{number}")
    assert len(take(box, free=3)) == 3
    assert take(box, free=0) == []


def test_ten_thousand_callbacks_for_one_endpoint_delay_no_other(box: Outbox, records: TaskStore, redis: Redis) -> None:
    end(records, "first", "crowded")
    pipe = redis.pipeline(transaction=False)
    for number in range(10_000):
        pipe.hset(keys.task(f"crowd-{number}"), mapping=redis.hgetall(keys.task("first")))  # type: ignore[arg-type]
        pipe.zadd(keys.callbacks("crowded:80"), {f"crowd-{number}": 1})
    pipe.execute()
    redis.zadd(keys.ENDPOINTS, {"crowded:80": 1})
    end(records, "late", "quiet")
    began = time.monotonic()
    taken = take(box)
    assert time.monotonic() - began < 1
    assert Counter(callback.endpoint for callback in taken) == {"crowded:80": 16, "quiet:80": 1}


def test_fifty_hanging_endpoints_leave_places_to_the_next(box: Outbox, records: TaskStore) -> None:
    """Each has more waiting than it may have in flight; the places are shared before they are all gone."""
    for receiver in range(50):
        for number in range(20):
            end(records, f"hanging-{receiver}-{number}", f"hanging-{receiver}")
    in_flight: list[Callback] = []
    while True:
        busy = Counter(callback.endpoint for callback in in_flight)
        taken = take(box, free=512 - len(in_flight), busy=busy)
        if not taken:
            break
        in_flight += taken
    assert len(in_flight) < 512
    assert {busy[f"hanging-{receiver}:80"] > 0 for receiver in range(50)} == {True}
    end(records, "late", "quiet")
    busy = Counter(callback.endpoint for callback in in_flight)
    assert ids(take(box, free=512 - len(in_flight), busy=busy)) == ["late"]


def test_an_endpoint_that_is_down_is_tried_by_a_few_at_a_time(box: Outbox, records: TaskStore) -> None:
    for number in range(10):
        end(records, f"task-{number}")
    box.settle([(callback, again(0)) for callback in take(box)])
    assert len(take(box)) == 4
    assert take(box, busy={"receiver.example:80": 4}) == []


def test_when_an_endpoint_is_back_everything_is_due_at_once(box: Outbox, records: TaskStore, redis: Redis) -> None:
    for number in range(10):
        end(records, f"task-{number}")
        end(records, f"other-{number}", "other.example")
    box.settle([(callback, again(3600)) for callback in take(box)])
    assert take(box) == []
    end(records, "probe")
    box.settle([(take_one(box), DELIVERED)])
    assert sorted(ids(take(box))) == [f"task-{number}" for number in range(10)]
    assert redis.smembers(keys.ENDPOINTS_DOWN) == {"other.example:80"}


def test_an_endpoint_with_a_retry_after_gets_no_earlier_attempt(box: Outbox, records: TaskStore) -> None:
    """429, or Retry-After: the next success there does not bring this one forward."""
    end(records, "limited")
    box.settle([(take_one(box), again(3600, away=False))])
    end(records, "away")
    box.settle([(take_one(box), again(3600))])
    end(records, "probe")
    box.settle([(take_one(box), DELIVERED)])
    assert ids(take(box)) == ["away"]


def test_a_callback_that_fails_alone_keeps_its_schedule(box: Outbox, records: TaskStore) -> None:
    """Others get through, this one fails every time: it must not be tried again after each of them."""
    end(records, "poison")
    tries = 0
    for number in range(20):
        (callback,) = take(box) or [None]
        if callback is not None:
            assert callback.task_id == "poison"
            tries += 1
            box.settle([(callback, again(3600))])
        end(records, f"good-{number}")
        box.settle([(take_one(box), DELIVERED)])
    assert tries == outbox.LONE_FAILURES + 1


def test_callbacks_of_a_dead_sender_are_sent_again(
    box: Outbox, records: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(records)
    before = take_one(box)
    assert take(box) == []
    monkeypatch.setattr(outbox, "CALLBACK_LEASE", 0.3)
    box.renew([before])
    after = until(lambda: take(box), what="the lease to run out")[0]
    assert (after.webhook_id, after.attempts) == (before.webhook_id, 0)


def test_renewed_leases_are_left_to_their_sender(box: Outbox, records: TaskStore, redis: Redis) -> None:
    end(records)
    callback = take_one(box)
    redis.zadd(keys.SENDING, {"the-id": 1})  # the end of a lease long ago
    box.renew([callback])
    assert take(box) == []
    redis.zadd(keys.SENDING, {"the-id": 1})
    assert ids(take(box)) == ["the-id"]


def test_a_lease_from_before_the_clock_was_set_back_is_void(box: Outbox, records: TaskStore, redis: Redis) -> None:
    end(records, "early", "early.example")
    end(records, "slow", "slow.example")
    take(box)
    now = float(redis.time()[0])  # type: ignore[index]
    redis.zadd(keys.SENDING, {"early": now + 3600, "slow": now + outbox.CALLBACK_LEASE + 2})
    assert ids(take(box)) == ["early"]
    assert float(redis.zscore(keys.SENDING, "early")) < now + 60  # type: ignore[arg-type]


def test_an_attempt_that_is_settled_twice_counts_once(box: Outbox, records: TaskStore, redis: Redis) -> None:
    """An answer of Redis was lost; or a sender was away for longer than its lease, and another has failed too."""
    end(records)
    for attempts in (1, 2):
        callback = take_one(box)
        for _ in range(3):
            box.settle([(callback, again(0))])
        assert redis.hget(keys.task("the-id"), "callback_attempts") == str(attempts)
        assert redis.hget(keys.task("the-id"), "callback_alone") == "1"
    callback = take_one(box)
    assert callback.attempts == 2
    box.settle([(callback, DELIVERED)])
    box.settle([(callback, DELIVERED)])
    assert box.undelivered() == []


def test_a_failure_that_is_settled_late_does_not_end_the_next_attempt(box: Outbox, records: TaskStore) -> None:
    end(records)
    first = take_one(box)
    box.settle([(first, again(0))])
    second = take_one(box)
    box.settle([(first, GIVEN_UP)])
    assert take(box) == []
    box.settle([(second, DELIVERED)])
    assert report(records) == CallbackReport(state="DELIVERED", attempts=2)


def test_an_endpoint_for_which_nothing_waits_is_dropped(box: Outbox, records: TaskStore, redis: Redis) -> None:
    """Any name of a host may come in a request: none may stay in Redis when its callbacks are through."""
    for task_id in ("given up", "expired", "expired on its way", "replayed", "replayed on its way", "delivered"):
        end(records, task_id, f"{task_id.replace(' ', '-')}.example")
    box.settle([(callback, again(0)) for callback in take(box)])
    assert redis.scard(keys.ENDPOINTS_DOWN) == 6
    quarantine = DeadLetters(redis)
    for task_id in ("replayed", "replayed on its way"):
        redis.hset(keys.dead_letter(task_id), "message", "{}")
    quarantine.replay("replayed")
    redis.delete(keys.task("expired"))
    taken = {callback.task_id: callback for callback in take(box)}
    assert "expired" not in taken
    assert redis.scard(keys.ENDPOINTS_DOWN) == 4  # of what is being sent
    quarantine.replay("replayed on its way")
    redis.delete(keys.task("expired on its way"))
    outcomes = {"delivered": DELIVERED, "given up": GIVEN_UP}
    box.settle([(callback, outcomes.get(task_id, again(0))) for task_id, callback in taken.items()])
    assert redis.smembers(keys.ENDPOINTS_DOWN) == set()
    assert redis.exists(keys.ENDPOINTS) == 0


def test_an_endpoint_remains_down_while_its_only_callback_is_in_flight(
    box: Outbox, records: TaskStore, redis: Redis
) -> None:
    end(records)
    for _ in range(outbox.LONE_FAILURES + 3):
        (callback,) = take(box)
        box.settle([(callback, again(0))])
        assert redis.smembers(keys.ENDPOINTS_DOWN) == {"receiver.example:80"}
    assert redis.hget(keys.task("the-id"), "callback_alone") == "1"


def test_a_lease_that_ran_out_after_the_delivery_repeats_nothing(box: Outbox, records: TaskStore, redis: Redis) -> None:
    end(records)
    callback = take_one(box)
    redis.zadd(keys.SENDING, {"the-id": 1})
    (repeated,) = take(box)
    box.settle([(callback, DELIVERED)])
    box.settle([(repeated, again(0))])
    assert take(box) == []
    assert box.undelivered() == []
    assert report(records) == CallbackReport(state="DELIVERED", attempts=1)


def test_a_released_callback_is_due_and_was_no_attempt(box: Outbox, records: TaskStore) -> None:
    end(records)
    box.release([take_one(box)])
    callback = take_one(box)
    assert (callback.attempts, callback.since_first) == (0, 0)
    box.settle([(callback, again(0))])
    callback = take_one(box)
    box.release([callback])
    assert take_one(box).attempts == 1


def test_releasing_a_settled_callback_changes_nothing(box: Outbox, records: TaskStore) -> None:
    end(records)
    callback = take_one(box)
    box.settle([(callback, DELIVERED)])
    box.release([callback])
    assert take(box) == []


def make_anew(redis: Redis) -> None:
    """Make of a record what a replay does."""
    callback = redis.hmget(keys.task("the-id"), ["callback_uri", "receiver"])
    redis.delete(keys.task("the-id"))
    fields = dict(zip(("callback_uri", "receiver"), callback, strict=True))
    redis.hset(keys.task("the-id"), mapping={"status": "PENDING", "replays": 1, **fields})


def test_a_task_that_was_replayed_is_another_event(box: Outbox, records: TaskStore, redis: Redis) -> None:
    end(records, a=1)
    box.settle([(take_one(box), GIVEN_UP)])
    make_anew(redis)
    assert take(box) == []
    records.complete("the-id", "SUCCESS", {"a": 2}, ttl=60)
    callback = take_one(box)
    assert (callback.webhook_id, callback.result, callback.attempts) == ("the-id.1", '{"a": 2}', 0)


def test_attempts_from_before_a_replay_change_nothing(box: Outbox, records: TaskStore, redis: Redis) -> None:
    end(records, a=1)
    before = take_one(box)
    make_anew(redis)
    records.complete("the-id", "SUCCESS", {"a": 2}, ttl=60)
    box.settle([(before, DELIVERED)])
    assert take_one(box).webhook_id == "the-id.1"


def test_a_callback_of_a_task_that_runs_again_waits_for_its_new_end(
    box: Outbox, records: TaskStore, redis: Redis
) -> None:
    end(records)
    redis.hdel(keys.task("the-id"), "result")
    assert take(box) == []
    records.complete("the-id", "SUCCESS", {"a": 2}, ttl=60)
    assert take_one(box).result == '{"a": 2}'


def test_what_was_not_delivered_is_listed_by_age(box: Outbox, records: TaskStore, redis: Redis) -> None:
    for task_id in ("failing", "waiting", "failed", "delivered", "fresh"):
        end(records, task_id, f"{task_id}.example")
    taken = {callback.task_id: callback for callback in take(box)}
    box.settle(
        [
            (taken["failing"], AttemptResult(status=503, error="answered 503", retry_in=100)),
            (taken["failed"], GIVEN_UP),
            (taken["delivered"], DELIVERED),
        ]
    )
    box.release([taken["fresh"]])
    listed = box.undelivered()
    assert [(one.task_id, one.state, one.attempts, one.last_status, one.last_error) for one in listed] == [
        ("failing", "PENDING", 1, 503, "answered 503"),
        ("waiting", "PENDING", 0, None, None),
        ("failed", "FAILED", 1, 404, "answered 404"),
        ("fresh", "PENDING", 0, None, None),
    ]
    assert listed[0].uri == "http://failing.example/stash"
    now = redis.time()[0]  # type: ignore[index]
    failing, waiting, failed, fresh = (one.next_try for one in listed)
    assert failing is not None
    assert 90 < failing - now <= 101
    assert (waiting, failed) == (None, None)  # the first of them is being sent
    assert fresh is not None
    assert abs(fresh - now) < 5


def test_more_than_one_step_of_callbacks_is_listed(
    box: Outbox, records: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_SCANNED", 3)
    for number in range(10):
        end(records, f"task-{number}")
    assert [one.task_id for one in box.undelivered()] == [f"task-{number}" for number in range(10)]


def test_a_callback_is_sent_again_with_a_schedule_that_begins_anew(
    box: Outbox, records: TaskStore, redis: Redis
) -> None:
    for task_id, outcome in {"delivered": DELIVERED, "failed": GIVEN_UP, "waiting": again(3600)}.items():
        end(records, task_id, f"{task_id}.example")
        box.settle([(take_one(box), outcome)])
    assert box.resend(["failed", "nonsense", "delivered", "waiting"]) == (
        ["failed", "delivered", "waiting"],
        ["nonsense"],
    )
    assert redis.ttl(keys.task("delivered")) == -1
    taken = take(box)
    assert sorted(ids(taken)) == ["delivered", "failed", "waiting"]
    assert {(callback.attempts, callback.since_first) for callback in taken} == {(0, 0)}
    assert {callback.webhook_id for callback in taken} == {"delivered", "failed", "waiting"}
    box.settle([(callback, DELIVERED) for callback in taken])
    assert box.undelivered() == []


def test_a_callback_in_flight_is_not_sent_twice_by_a_resend(box: Outbox, records: TaskStore) -> None:
    end(records)
    callback = take_one(box)
    assert box.resend(["the-id"]) == (["the-id"], [])
    assert take(box) == []
    box.settle([(callback, DELIVERED)])
    assert take(box) == []


def test_a_task_without_callback_or_end_cannot_be_resent(box: Outbox, records: TaskStore) -> None:
    records.enqueue("waiting", "message", callback_uri="http://receiver.example", queue_limit=10)
    records.enqueue("silent", "message", callback_uri=None, queue_limit=10)
    records.complete("silent", "SUCCESS", {}, ttl=60)
    assert box.resend(["waiting", "silent"]) == ([], ["waiting", "silent"])
    assert box.resend([]) == ([], [])
    assert take(box) == []


def test_all_failed_callbacks_are_sent_again(box: Outbox, records: TaskStore) -> None:
    for task_id, outcome in {"a": GIVEN_UP, "b": GIVEN_UP, "c": again(3600)}.items():
        end(records, task_id, f"{task_id}.example")
        box.settle([(take_one(box), outcome)])
    assert box.resend_failed() == (["a", "b"], [])
    assert sorted(ids(take(box))) == ["a", "b"]
    assert box.resend_failed() == ([], [])


def test_every_method_raises_when_redis_is_away(away: Redis) -> None:
    box = Outbox(away, result_ttl=60, callback_ttl=60)
    callback = Callback(task_id="a", endpoint="b:80", uri="http://b", status="SUCCESS", result="{}")
    attempts: list[Callable[[], Any]] = [
        lambda: box.wait(0.01),
        lambda: take(box),
        lambda: box.renew([callback]),
        lambda: box.settle([(callback, DELIVERED)]),
        lambda: box.release([callback]),
        box.undelivered,
        lambda: box.resend(["a"]),
        box.prune,
    ]
    for attempt in attempts:
        with pytest.raises(RedisError):
            attempt()
