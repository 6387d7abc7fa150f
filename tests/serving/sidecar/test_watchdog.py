"""watchdog.py: a worker that hangs, by what is in Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from doubles.clock import Clock
from redis import Redis, RedisError
from support.waiting import until

from app.serving.sidecar import watchdog
from app.serving.sidecar.watchdog import Watchdog
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.messages import task_message
from app.serving.store.tasks import TaskStore
from app.serving.store.workers import WorkerRegistry, WorkerState

WORKER = "worker@iris"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dog(broker: Redis, clock: Clock) -> Watchdog:
    return Watchdog(broker, WORKER, host="here", timeout=60, clock=clock)


@pytest.fixture
def claims(broker: Redis) -> Claims:
    return Claims(broker, ClaimLimits(deliveries=3, ttl=60), host="here")


@pytest.fixture
def accept(broker: Redis) -> Callable[..., None]:
    def enqueue(*task_ids: str) -> None:
        for task_id in task_ids:
            TaskStore(broker).enqueue(task_id, task_message(task_id, 1), callback_uri=None, queue_limit=100)

    return enqueue


@pytest.fixture
def up(broker: Redis) -> Callable[[int], None]:
    """Registers so many of the worker's processes as having the model."""
    return lambda count: WorkerRegistry(broker, host="here").heartbeat(WORKER, up=range(100, 100 + count), loading=())


def hangs_after(dog: Watchdog, clock: Clock, seconds: float, meanwhile: Callable[[], Any] = lambda: None) -> bool:
    """The last of the checks every 5 seconds for so long."""
    hangs = dog.hangs()
    for _ in range(int(seconds / 5)):
        clock.now += 5
        meanwhile()
        hangs = dog.hangs()
    return hangs


def test_a_worker_that_could_take_and_does_not_hangs(
    dog: Watchdog, clock: Clock, accept: Callable[..., None], up: Callable[[int], None]
) -> None:
    up(2)
    accept("a")
    assert not hangs_after(dog, clock, 55)
    assert hangs_after(dog, clock, 10)


def test_a_worker_that_is_not_registered_hangs_too(dog: Watchdog, clock: Clock, accept: Callable[..., None]) -> None:
    accept("a")
    assert hangs_after(dog, clock, 65)


def test_a_worker_without_waiting_tasks_does_not_hang(dog: Watchdog, clock: Clock, up: Callable[[int], None]) -> None:
    up(2)
    assert not hangs_after(dog, clock, 600)


def test_a_worker_that_is_busy_does_not_hang(
    dog: Watchdog, clock: Clock, claims: Claims, accept: Callable[..., None], up: Callable[[int], None]
) -> None:
    up(2)
    accept("a", "b", "c")
    claims.take(free=2, limit=1)
    assert not hangs_after(dog, clock, 3600)


def test_a_worker_that_loads_its_model_does_not_hang(
    dog: Watchdog, clock: Clock, accept: Callable[..., None], broker: Redis
) -> None:
    registry = WorkerRegistry(broker, host="here")
    registry.heartbeat(WORKER, up=(), loading=(1, 2))
    registry.report_process(WORKER, 1, WorkerState.ERROR, "no such file")
    # The same worker on another host is up, and has nothing to do with it.
    WorkerRegistry(broker, host="elsewhere").heartbeat(WORKER, up=(1, 2), loading=())
    accept("a")
    assert not hangs_after(dog, clock, 3600)


def test_a_worker_that_takes_now_and_then_does_not_hang(
    dog: Watchdog, clock: Clock, claims: Claims, accept: Callable[..., None], up: Callable[[int], None]
) -> None:
    up(8)
    accept("waits", *(f"task-{number}" for number in range(10)))
    for _ in range(10):
        assert not hangs_after(dog, clock, 50)
        claims.take(free=1, limit=1)


def test_what_workers_elsewhere_take_does_not_count(
    dog: Watchdog, clock: Clock, broker: Redis, accept: Callable[..., None], up: Callable[[int], None]
) -> None:
    up(1)
    others = Claims(broker, ClaimLimits(deliveries=3, ttl=60), host="elsewhere")
    accept(*(f"task-{number}" for number in range(30)))
    assert hangs_after(dog, clock, 65, meanwhile=lambda: others.take(free=1, limit=1))


def test_a_redis_that_is_away_is_no_hang(away: Redis) -> None:
    with pytest.raises(RedisError):
        Watchdog(away, WORKER).hangs()


def test_a_hung_worker_is_ended_once(
    broker: Redis, accept: Callable[..., None], up: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "HANG_CHECK_INTERVAL", 0.05)
    up(1)
    accept("a")
    ended: list[bool] = []
    stopping = threading.Event()
    dog = Watchdog(broker, WORKER, host="here", timeout=0.2)
    watching = threading.Thread(target=dog.run, args=(stopping, lambda: ended.append(True)))
    watching.start()
    try:
        until(lambda: ended, what="the worker to be ended")
        watching.join(5)
        assert not watching.is_alive()
    finally:
        stopping.set()
        watching.join()
    assert ended == [True]


def test_a_watchdog_stops(away: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "HANG_CHECK_INTERVAL", 0.05)
    stopping = threading.Event()
    watching = threading.Thread(target=Watchdog(away, WORKER).run, args=(stopping, lambda: None))
    watching.start()
    stopping.set()
    watching.join(5)
    assert not watching.is_alive()
