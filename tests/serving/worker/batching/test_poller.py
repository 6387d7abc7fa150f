"""poller.py: tasks that a process polls, and the end of its session; on a real Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from doubles.clock import Clock
from redis import Redis

from app.serving.store import keys
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.messages import QueuedTask, task_message
from app.serving.store.tasks import TaskStore
from app.serving.worker.batching.poller import SESSION_LIMIT, PollGrant, PollSession
from app.serving.worker.batching.scoreboard import Scoreboard

SLOT = 3
LIMITS = ClaimLimits(deliveries=3, ttl=60)


@pytest.fixture
def accept(records: TaskStore) -> Callable[..., None]:
    def enqueue(*task_ids: str) -> None:
        for task_id in task_ids:
            records.enqueue(task_id, task_message(task_id, {"of": task_id}), callback_uri=None, queue_limit=1000)

    return enqueue


@pytest.fixture
def claims(broker: Redis) -> Claims:
    return Claims(broker, LIMITS)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scoreboard(clock: Clock) -> Scoreboard:
    scoreboard = Scoreboard(clock)
    scoreboard.assign(SLOT, 1, polls=True)
    return scoreboard


@pytest.fixture
def session(claims: Claims, scoreboard: Scoreboard, clock: Clock) -> PollSession:
    return PollSession(claims, scoreboard, SLOT, PollGrant(session_id=7, limit=2), clock=clock)


def ids(tasks: list[QueuedTask]) -> list[str]:
    return [task.task_id for task in tasks]


@contextmanager
def meanwhile(act: Callable[[], object], *, after: float) -> Iterator[None]:
    timer = threading.Timer(after, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_waiting_tasks_are_polled_round_by_round(
    session: PollSession, accept: Callable[..., None], claims: Claims, scoreboard: Scoreboard
) -> None:
    accept("a", "b", "c")
    assert ids(session.next(waiting=3)) == ["a", "b"]
    assert scoreboard.round(SLOT) == 1
    assert ids(claims.session_tasks(7)[1]) == ["a", "b"]
    assert ids(session.next(waiting=1)) == ["c"]
    assert scoreboard.round(SLOT) == 2
    number, tasks = claims.session_tasks(7)
    assert (number, ids(tasks)) == (2, ["c"])


def test_a_poll_waits_for_a_task_that_comes_soon(
    session: PollSession, accept: Callable[..., None], scoreboard: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.serving.worker.batching.poller.POLL_TIMEOUT", 1.5)
    with meanwhile(lambda: accept("a"), after=0.05):
        assert ids(session.next(waiting=0)) == ["a"]
    assert scoreboard.since(SLOT) == (1000.0, False)


def test_the_session_is_over_when_nothing_comes(session: PollSession, scoreboard: Scoreboard) -> None:
    assert session.next(waiting=0) == []
    assert scoreboard.since(SLOT) == (1000.0, True)


def test_the_session_is_over_after_a_while_although_tasks_wait(
    session: PollSession, accept: Callable[..., None], clock: Clock
) -> None:
    accept("a", "b", "c")
    assert ids(session.next(waiting=3)) == ["a", "b"]
    clock.now += SESSION_LIMIT + 0.01
    assert session.next(waiting=1) == []


def test_a_process_whose_grant_was_revoked_takes_nothing_more(
    session: PollSession, accept: Callable[..., None], scoreboard: Scoreboard, broker: Redis
) -> None:
    accept("a")
    scoreboard.revoke_grant(SLOT)
    assert session.next(waiting=1) == []
    assert session.next(waiting=0) == []
    assert broker.llen(keys.QUEUE) == 1


def test_a_task_that_must_be_isolated_is_left_on_the_queue(
    session: PollSession, accept: Callable[..., None], claims: Claims, broker: Redis
) -> None:
    accept("suspect")
    claims.take(free=1, limit=1)
    claims.requeue({"suspect": True})
    accept("b")
    assert session.next(waiting=2) == []
    assert broker.llen(keys.QUEUE) == 2
    assert not session.to_requeue


def test_what_cannot_run_in_a_batch_is_to_be_requeued(
    session: PollSession, records: TaskStore, accept: Callable[..., None]
) -> None:
    accept("a")
    message = json.loads(task_message("later", {}))
    message["headers"]["eta"] = "2100-01-01T00:00:00"
    records.enqueue("later", json.dumps(message), callback_uri=None, queue_limit=1000)
    assert ids(session.next(waiting=2)) == ["a"]
    assert session.to_requeue == ["later"]
    accept("b")
    assert session.next(waiting=1) == []


def test_cancelled_tasks_are_reported_and_not_run(
    session: PollSession, records: TaskStore, accept: Callable[..., None]
) -> None:
    accept("a", "b")
    records.cancel("a", ttl=60)
    assert ids(session.next(waiting=2)) == ["b"]
    assert ids(session.cancelled) == ["a"]


def test_the_session_is_over_when_redis_is_away(away: Redis, scoreboard: Scoreboard, clock: Clock) -> None:
    session = PollSession(Claims(away, LIMITS), scoreboard, SLOT, PollGrant(session_id=1, limit=2), clock=clock)
    assert session.next(waiting=0) == []
    assert session.next(waiting=1) == []
