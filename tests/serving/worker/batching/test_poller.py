"""poller.py: what a process that stays at the queue takes, and when it goes back; on a real Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from app.serving.store import keys
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.messages import QueuedTask, task_message
from app.serving.store.tasks import TaskStore
from app.serving.worker.batching.poller import SESSION_LIMIT, PollGrant, PollSession
from app.serving.worker.batching.scoreboard import Scoreboard

SLOT = 3
LIMITS = ClaimLimits(deliveries=3, ttl=60)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def accept(records: TaskStore) -> Callable[..., None]:
    def accept_all(*task_ids: str) -> None:
        for task_id in task_ids:
            records.enqueue(task_id, task_message(task_id, {"of": task_id}), callback_uri=None, queue_limit=1000)

    return accept_all


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
def visit(claims: Claims, scoreboard: Scoreboard, clock: Clock) -> PollSession:
    return PollSession(claims, scoreboard, SLOT, PollGrant(number=7, most=2), clock=clock)


def ids(items: list[QueuedTask]) -> list[str]:
    return [item.task_id for item in items]


@contextmanager
def meanwhile(act: Callable[[], object], *, after: float) -> Iterator[None]:
    timer = threading.Timer(after, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_what_waits_is_taken_round_by_round(
    visit: PollSession, accept: Callable[..., None], claims: Claims, scoreboard: Scoreboard
) -> None:
    accept("a", "b", "c")
    assert ids(visit.next(waiting=3)) == ["a", "b"]
    assert scoreboard.round(SLOT) == 1
    assert ids(claims.session_tasks(7)[1]) == ["a", "b"]
    assert ids(visit.next(waiting=1)) == ["c"]
    assert scoreboard.round(SLOT) == 2
    number, items = claims.session_tasks(7)
    assert (number, ids(items)) == (2, ["c"])


def test_what_comes_soon_is_waited_for(
    visit: PollSession, accept: Callable[..., None], scoreboard: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.serving.worker.batching.poller.POLL_TIMEOUT", 1.5)
    with meanwhile(lambda: accept("a"), after=0.05):
        assert ids(visit.next(waiting=0)) == ["a"]
    assert scoreboard.since(SLOT) == (1000.0, False)


def test_when_nothing_comes_the_process_goes_back(visit: PollSession, scoreboard: Scoreboard) -> None:
    assert visit.next(waiting=0) == []
    assert scoreboard.since(SLOT) == (1000.0, True)


def test_a_process_goes_back_from_time_to_time(visit: PollSession, accept: Callable[..., None], clock: Clock) -> None:
    accept("a", "b", "c")
    assert ids(visit.next(waiting=3)) == ["a", "b"]
    clock.now += SESSION_LIMIT + 0.01
    assert visit.next(waiting=1) == []


def test_a_process_that_is_called_back_takes_nothing_more(
    visit: PollSession, accept: Callable[..., None], scoreboard: Scoreboard, broker: Redis
) -> None:
    accept("a")
    scoreboard.revoke_grant(SLOT)
    assert visit.next(waiting=1) == []
    assert visit.next(waiting=0) == []
    assert broker.llen(keys.QUEUE) == 1


def test_a_task_that_must_be_alone_is_left_on_the_queue(
    visit: PollSession, accept: Callable[..., None], claims: Claims, broker: Redis
) -> None:
    accept("suspect")
    claims.take(free=1, limit=1)
    claims.requeue({"suspect": True})
    accept("b")
    assert visit.next(waiting=2) == []
    assert broker.llen(keys.QUEUE) == 2
    assert not visit.left


def test_what_is_for_no_parcel_is_given_back(
    visit: PollSession, records: TaskStore, accept: Callable[..., None]
) -> None:
    accept("a")
    message = json.loads(task_message("later", {}))
    message["headers"]["eta"] = "2100-01-01T00:00:00"
    records.enqueue("later", json.dumps(message), callback_uri=None, queue_limit=1000)
    assert ids(visit.next(waiting=2)) == ["a"]
    assert visit.left == ["later"]
    accept("b")
    assert visit.next(waiting=1) == []


def test_cancelled_tasks_are_told_and_not_run(
    visit: PollSession, records: TaskStore, accept: Callable[..., None]
) -> None:
    accept("a", "b")
    records.cancel("a", ttl=60)
    assert ids(visit.next(waiting=2)) == ["b"]
    assert ids(visit.cancelled) == ["a"]


def test_a_redis_that_is_away_sends_the_process_back(away: Redis, scoreboard: Scoreboard, clock: Clock) -> None:
    visit = PollSession(Claims(away, LIMITS), scoreboard, SLOT, PollGrant(number=1, most=2), clock=clock)
    assert visit.next(waiting=0) == []
    assert visit.next(waiting=1) == []
