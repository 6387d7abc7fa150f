"""claims.py: owners of tasks, on a real Redis, with time as the tests set it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis, RedisError
from support.records import failed, record_of
from support.waiting import in_threads

from app.serving.store import keys
from app.serving.store.claims import CLAIM_LEASE, ClaimLimits, Claims, DeadLettered, HostClaims, Taken, new_owner
from app.serving.store.dead_letters import DeadLetters
from app.serving.store.messages import task_message
from app.serving.store.tasks import Completion, Idempotency, TaskStore

Accept = Callable[..., None]

URI = "http://receiver.example/stash"
LIMITS = ClaimLimits(deliveries=3, ttl=60)


@pytest.fixture
def accept(records: TaskStore) -> Accept:
    def accept_all(*task_ids: str, uri: str | None = None) -> None:
        for task_id in task_ids:
            records.enqueue(task_id, task_message(task_id, {"of": task_id}), callback_uri=uri, queue_limit=10_000)

    return accept_all


@pytest.fixture
def claims(broker: Redis) -> Claims:
    return Claims(broker, LIMITS, new_owner("here"))


@pytest.fixture
def others(broker: Redis) -> Claims:
    """Another worker's, on another machine."""
    return Claims(broker, LIMITS, new_owner("elsewhere"))


@pytest.fixture
def here(broker: Redis) -> HostClaims:
    return HostClaims(broker, LIMITS, host="here")


@pytest.fixture
def elsewhere(broker: Redis) -> HostClaims:
    return HostClaims(broker, LIMITS, host="elsewhere")


def ids(taken: Taken) -> list[str]:
    return [json.loads(claimed.message)["headers"]["id"] for claimed in taken.claimed]


def age(redis: Redis, claims: Claims, seconds: float = CLAIM_LEASE + 1) -> None:
    """As if the owner had not renewed its lease for so long, while others were looking."""
    redis.zincrby(keys.LEASES, -seconds, claims.owner)
    redis.set(keys.LAST_RECLAIM, float(redis.time()[0]))


def holder(claims: Claims) -> str:
    return f"{claims.owner}.{claims.epoch}"


def status(records: TaskStore, task_id: str) -> str:
    return record_of(records, task_id).status


def pass_on(claims: Claims, others: Claims, redis: Redis, elsewhere: HostClaims) -> None:
    """Let the lease on `a` end, and another worker take it."""
    claims.take(limit=1)
    age(redis, claims)
    elsewhere.renew({})
    others.take(limit=1)


def nothing_is_claimed(redis: Redis) -> bool:
    return not redis.exists(keys.UNACKED, keys.OWNERS)


# Taking


def test_messages_are_claimed_in_the_order_of_the_queue(claims: Claims, accept: Accept) -> None:
    accept("a", "b", "c")
    assert ids(claims.take(limit=2)) == ["a", "b"]
    assert ids(claims.take(limit=2)) == ["c"]
    assert claims.take(limit=2).claimed == []


def test_a_claimed_message_is_stored_as_kombu_stores_it(claims: Claims, accept: Accept, redis: Redis) -> None:
    accept("a")
    (claimed,) = claims.take(limit=1).claimed
    assert claimed.deliveries == 1
    assert json.loads(redis.hget(keys.UNACKED, "a")) == [json.loads(claimed.message), "", keys.QUEUE]


def test_a_redelivered_task_is_claimed_alone(claims: Claims, accept: Accept) -> None:
    accept("again", "a", "b", "c")
    claims.take(limit=1)
    claims.requeue_all(["again"])
    taken = [claims.take(limit=2) for _ in range(3)]
    assert [ids(each) for each in taken] == [["again"], ["a", "b"], ["c"]]
    assert [claimed.deliveries for claimed in taken[0].claimed] == [2]


def test_a_batch_ends_before_a_redelivered_task(claims: Claims, accept: Accept) -> None:
    accept("a", "again", "b")
    claims.take(limit=2)
    claims.requeue_all(["again"])
    assert ids(claims.take(limit=8)) == ["a"]
    assert ids(claims.take(limit=8)) == ["again"]
    assert ids(claims.take(limit=8)) == ["b"]


def test_messages_requeued_together_keep_their_order(claims: Claims, accept: Accept) -> None:
    accept("a", "b", "c", "d")
    claims.take(limit=3)
    claims.requeue(["a", "b", "c"])
    assert ids(claims.take(limit=8)) == ["a", "b", "c", "d"]


def test_a_claimed_task_no_longer_waits(claims: Claims, accept: Accept, records: TaskStore) -> None:
    accept("a", "b")
    assert [record_of(records, each).position for each in ("a", "b")] == [1, 2]
    claims.take(limit=1)
    assert [record_of(records, each).position for each in ("a", "b")] == [None, 1]


def test_no_message_is_claimed_twice_by_concurrent_workers(broker: Redis, accept: Accept) -> None:
    accept(*(f"task-{number}" for number in range(200)))
    taken: list[str] = []

    def take(_: int) -> None:
        mine = Claims(broker, LIMITS, new_owner())
        while (messages := mine.take(limit=3)).claimed:
            taken.extend(ids(messages))

    in_threads(8, take)
    assert sorted(taken) == sorted(f"task-{number}" for number in range(200))


def test_a_cancelled_task_is_not_claimed(claims: Claims, accept: Accept, records: TaskStore, redis: Redis) -> None:
    accept("a", "b")
    assert records.cancel("a", ttl=60) == "REVOKED"
    assert ids(claims.take(limit=2)) == ["b"]
    assert redis.llen(keys.QUEUE) == 0


def test_a_cancelled_task_whose_record_has_expired_is_not_claimed(
    claims: Claims, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    accept("a")
    records.cancel("a", ttl=60)
    redis.delete(keys.task("a"))
    assert claims.take(limit=1).claimed == []


def test_a_message_of_a_celery_client_is_claimed(claims: Claims, redis: Redis) -> None:
    message = json.loads(task_message("theirs", 1))
    message["properties"]["delivery_tag"] = "a-tag"
    redis.lpush(keys.QUEUE, json.dumps(message))
    assert ids(claims.take(limit=1)) == ["theirs"]
    assert redis.hget(keys.OWNERS, "theirs") == holder(claims)
    claims.requeue(["theirs"])
    assert ids(claims.take(limit=1)) == ["theirs"]


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"id": 3}'])
def test_an_unreadable_message_becomes_a_dead_letter(
    claims: Claims, accept: Accept, redis: Redis, broker: Redis, text: str
) -> None:
    redis.lpush(keys.QUEUE, text)
    accept("a")
    assert ids(claims.take(limit=2)) == ["a"]
    (kept,) = DeadLetters(broker).read()
    assert kept.reason == "not a message that Celery could have sent"
    assert redis.hget(keys.dead_letter(kept.task_id), "message") == text
    assert not DeadLetters(broker).replay(kept.task_id)
    assert DeadLetters(broker).discard(kept.task_id)
    assert DeadLetters(broker).read() == []


def test_ids_in_a_request_are_not_mistaken_for_the_tasks_own(claims: Claims, records: TaskStore, redis: Redis) -> None:
    """The arguments stand in the message twice: in base64, and as text for the dashboard."""
    hostile = {"id": "x", '"id": "x"': '"delivery_tag": "x", "id": "x"'}
    records.enqueue("a", task_message("a", hostile), callback_uri=None, queue_limit=10)
    claims.take(limit=1)
    assert redis.hgetall(keys.OWNERS) == {"a": holder(claims)}


# Waiting at the queue


def test_a_process_waits_for_the_next_task(claims: Claims, accept: Accept) -> None:
    assert ids(claims.take(limit=2, wait=0.01)) == []
    timer = threading.Timer(0.05, accept, args=["a"])
    timer.start()
    try:
        assert ids(claims.take(limit=2, wait=1.5)) == ["a"]
    finally:
        timer.join()


def test_taking_goes_on_after_redis_lost_its_scripts(claims: Claims, accept: Accept, redis: Redis) -> None:
    accept("a", "b")
    redis.script_flush()
    assert ids(claims.take(limit=1, wait=1)) == ["a"]
    redis.script_flush()
    assert ids(claims.take(limit=1)) == ["b"]


def test_ends_are_stored_before_the_next_tasks_are_claimed(
    claims: Claims, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    accept("a", "b", "c", "d")
    claims.take(limit=2)
    ends = [Completion("a", "SUCCESS", '{"of": "a"}'), Completion("b", "FAILURE", '{"args": ["bad"]}')]
    taken = claims.take(limit=1, wait=10, completions=ends)
    assert (ids(taken), taken.waiting) == (["c"], 1)
    assert [record_of(records, each).result for each in ("a", "b")] == [{"of": "a"}, {"args": ["bad"]}]
    assert redis.hkeys(keys.OWNERS) == ["c"]


def test_a_cancelled_task_is_returned_at_its_turn(claims: Claims, accept: Accept, records: TaskStore) -> None:
    accept("a", "b")
    records.cancel("a", ttl=60)
    taken = claims.take(limit=8)
    assert (ids(taken), [item.task_id for item in taken.cancelled]) == (["b"], ["a"])
    assert taken.cancelled[0].args_repr == "[{'of': 'a'}]"


# Renewing


def test_a_renewed_claim_holds_however_long_its_task_runs(
    claims: Claims, here: HostClaims, elsewhere: HostClaims, accept: Accept, redis: Redis
) -> None:
    accept("a")
    claims.take(limit=1)
    for _ in range(10):
        age(redis, claims, seconds=CLAIM_LEASE - 1)
        here.renew({claims.owner: claims.epoch})
        elsewhere.renew({})
    assert redis.hget(keys.OWNERS, "a") == holder(claims)
    assert redis.llen(keys.QUEUE) == 0


def test_an_expired_claim_is_requeued_at_the_head(
    claims: Claims, others: Claims, elsewhere: HostClaims, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    accept("a", "b")
    claims.take(limit=1)
    assert status(records, "a") == "STARTED"
    age(redis, claims)
    elsewhere.renew({})
    assert status(records, "a") == "PENDING"
    assert [record_of(records, each).position for each in ("a", "b")] == [1, 2]
    assert [ids(others.take(limit=2)) for _ in range(2)] == [["a"], ["b"]]


def test_after_redis_was_away_every_owner_may_renew_first(
    claims: Claims, elsewhere: HostClaims, accept: Accept, redis: Redis
) -> None:
    """Nobody could renew meanwhile: an old lease does not mean a dead owner then."""
    accept("a")
    claims.take(limit=1)
    redis.zincrby(keys.LEASES, -1000, claims.owner)
    redis.set(keys.LAST_RECLAIM, float(redis.time()[0]) - 1000)
    elsewhere.renew({})
    assert redis.hget(keys.OWNERS, "a") == holder(claims)
    age(redis, claims)
    elsewhere.renew({})
    assert nothing_is_claimed(redis)


def test_an_owner_without_a_lease_gets_one_first(
    claims: Claims, elsewhere: HostClaims, accept: Accept, redis: Redis
) -> None:
    """As after an earlier release, which had a lease for each claim."""
    accept("a")
    claims.take(limit=1)
    redis.delete(keys.LEASES)
    redis.set(keys.LAST_RECLAIM, float(redis.time()[0]))
    elsewhere.renew({})
    assert redis.hget(keys.OWNERS, "a") == holder(claims)
    age(redis, claims)
    elsewhere.renew({})
    assert nothing_is_claimed(redis)


def test_a_clock_that_is_set_back_does_not_keep_a_dead_owners_claim(
    claims: Claims, elsewhere: HostClaims, accept: Accept, redis: Redis
) -> None:
    accept("a")
    claims.take(limit=1)
    redis.zincrby(keys.LEASES, 3600, claims.owner)
    redis.set(keys.LAST_RECLAIM, float(redis.time()[0]) + 3600)
    elsewhere.renew({})
    age(redis, claims)
    elsewhere.renew({})
    assert nothing_is_claimed(redis)


def test_what_an_owner_that_lives_no_more_has_is_requeued_at_once(
    claims: Claims, others: Claims, here: HostClaims, accept: Accept, redis: Redis
) -> None:
    """Its process died, or its worker was restarted."""
    accept("a", "b", "c", "d")
    claims.take(limit=3)
    others.take(limit=1)
    here.renew({new_owner("here"): 0})
    assert redis.hgetall(keys.OWNERS) == {"d": holder(others)}
    assert [ids(others.take(limit=3)) for _ in range(3)] == [["a"], ["b"], ["c"]]


def test_a_host_is_not_mistaken_for_one_whose_name_begins_like_its_own(
    broker: Redis, others: Claims, accept: Accept, redis: Redis
) -> None:
    accept("a")
    others.take(limit=1)
    HostClaims(broker, LIMITS, host="else").renew({})
    assert redis.hget(keys.OWNERS, "a") == holder(others)


def test_what_was_claimed_in_an_answer_that_was_lost_is_requeued(
    claims: Claims, here: HostClaims, accept: Accept, redis: Redis
) -> None:
    """Also when Redis reads the claim from the broken connection later than the requeue from a new one."""
    accept("a", "b")
    claims.take(limit=1)
    claims.epoch += 1
    here.renew({claims.owner: claims.epoch})
    assert redis.hget(keys.task("a"), "deliveries") == "0"
    assert ids(claims.take(limit=2)) == ["a", "b"]
    here.renew({claims.owner: 0})
    here.renew({claims.owner: claims.epoch})
    assert sorted(redis.hkeys(keys.OWNERS)) == ["a", "b"]


def test_leases_of_owners_that_are_long_gone_are_dropped(
    claims: Claims, others: Claims, here: HostClaims, accept: Accept, redis: Redis
) -> None:
    accept("a", "b")
    claims.take(limit=1)
    others.take(limit=1)
    others.requeue_all()
    assert redis.zrange(keys.LEASES, 0, -1) == [claims.owner]
    redis.zadd(keys.LEASES, {"gone/0": 1, "gone/1": 2})
    redis.set(keys.LAST_RECLAIM, float(redis.time()[0]))
    here.renew({claims.owner: claims.epoch})
    assert redis.zrange(keys.LEASES, 0, -1) == [claims.owner]


def test_renewal_returns_the_tasks_that_were_cancelled(
    claims: Claims, here: HostClaims, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    accept("a", "b", "c")
    claims.take(limit=3)
    records.cancel("a", ttl=60)
    records.complete("b", "SUCCESS", {}, ttl=60)
    assert here.renew({claims.owner: claims.epoch}, ["a", "b", "c"]).cancelled == ["a"]
    assert redis.hkeys(keys.OWNERS) == ["c"]


def test_renewal_returns_the_tasks_that_became_dead_letters(
    broker: Redis, claims: Claims, here: HostClaims, accept: Accept
) -> None:
    accept("a", "b")
    for _ in range(LIMITS.deliveries - 1):
        claims.take(limit=2)
        assert claims.requeue_all(["a"]) == []
    claims.take(limit=2)
    reason = f"the worker died while running this task, {LIMITS.deliveries} times"
    assert claims.requeue_all(["a"]) == [DeadLettered("a", reason)]
    given_up = []
    for _ in range(LIMITS.deliveries):
        Claims(broker, LIMITS, new_owner("here")).take(limit=1)
        given_up += here.renew({}).dead_lettered
    assert given_up == [DeadLettered("b", reason)]


def test_a_claimed_message_has_the_time_since_when_it_waited(claims: Claims, accept: Accept, redis: Redis) -> None:
    accept("a")
    accepted = float(redis.hget(keys.task("a"), "since") or 0)
    (claimed,) = claims.take(limit=1).claimed
    assert claimed.since == pytest.approx(accepted, abs=1e-3)
    assert abs(claimed.since - time.time()) < 60


def test_thousands_of_tasks_are_claimed_and_completed_in_few_steps(
    claims: Claims, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    names = [f"task-{number}" for number in range(2500)]
    accept(*names)
    taken = [len(claims.take(limit=10000).claimed) for _ in range(3)]
    assert sum(taken) == 2500
    assert max(taken) > 1000
    assert redis.hlen(keys.OWNERS) == redis.hlen(keys.UNACKED) == 2500
    assert redis.zcard(keys.WAITING) == 0
    records.complete_many([Completion(name, "SUCCESS", "{}") for name in names], ttl=60)
    assert redis.exists(keys.OWNERS, keys.UNACKED, keys.WAITING) == 0
    assert {redis.hget(keys.task(name), "status") for name in names} == {"SUCCESS"}


def test_no_process_gets_more_than_its_share_of_a_split_queue(claims: Claims, accept: Accept) -> None:
    accept("a", "b", "c", "d", "e")
    assert len(claims.take(limit=32, sharers=2).claimed) == 3
    assert len(claims.take(limit=32, sharers=2).claimed) == 1
    assert len(claims.take(limit=32, sharers=2).claimed) == 1


def test_renewal_without_claims_writes_nothing(claims: Claims, here: HostClaims, redis: Redis) -> None:
    """Redis would write it to the disk, every two seconds."""
    here.renew({claims.owner: claims.epoch})
    assert redis.keys("*") == []


# Ending and giving back


def test_completing_a_task_releases_its_claim(claims: Claims, accept: Accept, records: TaskStore, redis: Redis) -> None:
    accept("a")
    claims.take(limit=1)
    records.complete("a", "SUCCESS", {}, ttl=60)
    assert nothing_is_claimed(redis)
    claims.requeue(["a"])
    assert (redis.llen(keys.QUEUE), status(records, "a")) == (0, "SUCCESS")


def test_a_claim_of_a_task_that_has_ended_is_dropped(
    claims: Claims, others: Claims, elsewhere: HostClaims, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    """Two had it, after all: one of them is through."""
    accept("a")
    pass_on(claims, others, redis, elsewhere)
    records.complete("a", "SUCCESS", {"by": "the first"}, ttl=60)
    claims.requeue(["a"])
    elsewhere.renew({others.owner: 0}, ["a"])
    assert nothing_is_claimed(redis)
    assert redis.llen(keys.QUEUE) == 0


def test_a_claim_that_passed_to_another_worker_cannot_be_requeued(
    claims: Claims, others: Claims, elsewhere: HostClaims, accept: Accept, redis: Redis
) -> None:
    accept("a")
    pass_on(claims, others, redis, elsewhere)
    claims.requeue(["a"])
    claims.reject("a", "no reason")
    assert redis.hget(keys.OWNERS, "a") == holder(others)
    assert redis.llen(keys.QUEUE) == 0
    assert redis.hget(keys.task("a"), "deliveries") == "2"


def test_what_was_taken_anew_in_a_later_epoch_is_not_requeued_by_an_earlier_one(
    broker: Redis, claims: Claims, accept: Accept, redis: Redis
) -> None:
    """The process runs it by now."""
    accept("a", "b")
    claims.take(limit=2)
    claims.requeue(["a"])
    claims.epoch += 1
    claims.take(limit=1)
    Claims(broker, LIMITS, claims.owner, 0).requeue(["a", "b"])
    assert redis.hkeys(keys.OWNERS) == ["a"]
    Claims(broker, LIMITS, claims.owner, 1).requeue(["a"])
    assert not redis.exists(keys.OWNERS)


def test_a_death_that_is_reported_twice_counts_once(claims: Claims, accept: Accept, redis: Redis) -> None:
    """The connection broke between the step and its answer."""
    accept("a")
    claims.take(limit=1)
    claims.requeue_all(["a"])
    claims.requeue_all(["a"])
    assert redis.llen(keys.QUEUE) == 1
    claims.take(limit=1)
    assert redis.hget(keys.task("a"), "deliveries") == "2"


def test_stopping_requeues_everything_and_counts_no_delivery(
    claims: Claims, others: Claims, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    accept("a", "b", "c", "d")
    claims.take(limit=2)
    others.take(limit=1)
    claims.requeue_all()
    assert redis.hkeys(keys.OWNERS) == ["c"]
    assert sorted(ids(others.take(limit=3))) == ["a", "b", "d"]
    assert redis.hget(keys.task("a"), "deliveries") == "1"


def test_a_rejected_message_becomes_a_dead_letter_with_the_reason(
    claims: Claims, accept: Accept, records: TaskStore, redis: Redis, broker: Redis
) -> None:
    accept("a", uri=URI)
    claims.take(limit=1)
    claims.reject("a", "eta is tomorrow")
    claims.reject("a", "eta is tomorrow")
    assert nothing_is_claimed(redis)
    assert (record_of(records, "a").status, record_of(records, "a").result) == (
        "FAILURE",
        failed("ForeignMessage", "eta is tomorrow"),
    )
    assert redis.zrange(keys.UNDELIVERED, 0, -1) == ["a"]
    assert [(kept.task_id, kept.reason) for kept in DeadLetters(broker).read()] == [("a", "eta is tomorrow")]


# Tasks that kill


def die(claims: Claims, times: int, task_id: str = "a") -> None:
    for _ in range(times):
        assert claims.take(limit=1).claimed
        claims.requeue_all([task_id])


def test_a_task_that_kills_its_process_too_often_becomes_a_dead_letter(
    claims: Claims, accept: Accept, records: TaskStore, redis: Redis, broker: Redis
) -> None:
    accept("a", uri=URI)
    die(claims, 2)
    assert status(records, "a") == "PENDING"
    die(claims, 1)
    record = record_of(records, "a")
    assert record.status == "FAILURE"
    assert record.result == failed("WorkerDied", "the worker died while running this task, 3 times")
    assert redis.zrange(keys.UNDELIVERED, 0, -1) == ["a"]
    assert claims.take(limit=1).claimed == []
    assert nothing_is_claimed(redis)
    (kept,) = DeadLetters(broker).read()
    assert (kept.task_id, kept.deliveries) == ("a", 3)
    assert kept.reason == "the worker died while running this task, 3 times"


def test_one_delivery_may_be_the_limit(broker: Redis, accept: Accept, records: TaskStore) -> None:
    accept("a")
    die(Claims(broker, ClaimLimits(deliveries=1, ttl=60), new_owner()), 1)
    assert record_of(records, "a").result == failed("WorkerDied", "the worker died while running this task, once")


def test_a_worker_that_dies_whole_counts_too(
    broker: Redis, here: HostClaims, accept: Accept, records: TaskStore
) -> None:
    accept("a")
    for _ in range(3):
        here.renew({})
        Claims(broker, LIMITS, new_owner("here")).take(limit=1)
    here.renew({})
    assert status(records, "a") == "FAILURE"


def test_a_replayed_task_runs_again_under_its_own_id(
    claims: Claims, accept: Accept, records: TaskStore, redis: Redis, broker: Redis
) -> None:
    accept("a", uri=URI)
    die(claims, 3)
    redis.delete(keys.task("a"))  # as when the record has expired
    assert DeadLetters(broker).replay("a")
    record = record_of(records, "a")
    assert (record.status, record.position, record.callback_uri) == ("PENDING", 1, URI)
    assert redis.zcard(keys.UNDELIVERED) == 0  # the callback that told of the failure
    assert DeadLetters(broker).read() == []
    die(claims, 2)
    assert ids(claims.take(limit=1)) == ["a"]
    records.complete("a", "SUCCESS", {}, ttl=60)
    assert redis.zrange(keys.UNDELIVERED, 0, -1) == ["a"]
    assert redis.hget(keys.task("a"), "replays") == "1"


@pytest.mark.parametrize("uri", [None, URI])
def test_a_replayed_task_keeps_its_idempotency_key(
    claims: Claims, records: TaskStore, redis: Redis, broker: Redis, uri: str | None
) -> None:
    key = Idempotency(key="a-key", body="a-body")
    message = task_message("a", {})
    records.enqueue("a", message, callback_uri=uri, queue_limit=10, idempotency=key)
    die(claims, 3)
    assert DeadLetters(broker).replay("a")
    again = records.enqueue("b", task_message("b", {}), callback_uri=uri, queue_limit=10, idempotency=key)
    assert again == ("a", None)
    assert redis.ttl(keys.idempotency(key.key)) == -1
    records.cancel("a", ttl=60)
    assert redis.ttl(keys.idempotency(key.key)) == redis.ttl(keys.task("a"))


def test_a_discarded_dead_letter_is_gone_and_its_task_stays_failed(
    claims: Claims, accept: Accept, records: TaskStore, redis: Redis, broker: Redis
) -> None:
    accept("a")
    die(claims, 3)
    assert DeadLetters(broker).discard("a")
    assert not DeadLetters(broker).discard("a")
    assert not DeadLetters(broker).replay("a")
    assert status(records, "a") == "FAILURE"
    assert not redis.exists(keys.DEAD_LETTERS, keys.dead_letter("a"))


def test_a_dead_letter_is_kept_for_a_month(claims: Claims, accept: Accept, redis: Redis, broker: Redis) -> None:
    accept("a", "b")
    die(claims, 3)
    assert 2_591_000 < int(redis.ttl(keys.dead_letter("a"))) <= 2_592_000
    redis.delete(keys.dead_letter("a"))
    redis.zincrby(keys.DEAD_LETTERS, -2_592_001, "a")
    assert DeadLetters(broker).read() == []
    die(claims, 3, "b")
    assert redis.zrange(keys.DEAD_LETTERS, 0, -1) == ["b"]


def test_only_dead_letters_are_replayed(accept: Accept, records: TaskStore, redis: Redis, broker: Redis) -> None:
    accept("a")
    assert not DeadLetters(broker).replay("a")
    assert not DeadLetters(broker).replay("never")
    assert redis.llen(keys.QUEUE) == 1


# Redis


def test_claims_work_at_the_memory_limit(
    claims: Claims, here: HostClaims, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    accept("a", "b", "c")
    redis.config_set("maxmemory", "1")
    try:
        assert ids(claims.take(limit=2, wait=10)) == ["a", "b"]
        here.renew({claims.owner: claims.epoch}, ["a", "b"])
        records.complete("a", "SUCCESS", {"large": "x" * 10_000}, ttl=60)
        claims.requeue_all(["b"])
        assert [ids(claims.take(limit=2)) for _ in range(2)] == [["b"], ["c"]]
        claims.requeue(["b", "c"])
        with pytest.raises(RedisError):
            accept("d")
    finally:
        redis.config_set("maxmemory", "0")
    assert redis.llen(keys.QUEUE) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda claims: claims.take(limit=1),
        lambda claims: claims.requeue(["a"]),
        lambda claims: claims.requeue_all(),
        lambda claims: claims.reject("a", "no reason"),
    ],
)
def test_every_method_of_claims_raises_when_redis_is_away(away: Redis, call: Callable[[Claims], Any]) -> None:
    with pytest.raises(RedisError):
        call(Claims(away, LIMITS, new_owner()))
    with pytest.raises(RedisError):
        HostClaims(away, LIMITS).renew({})
