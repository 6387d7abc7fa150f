"""worker_watch.py: the cause why no worker can run tasks, read off the path of requests."""

from __future__ import annotations

import asyncio

from redis.exceptions import ConnectionError as RedisConnectionError

from app.serving.queue.worker_watch import WorkerWatch
from app.serving.store.workers import WorkerReport, WorkerState

UP, LOADING, ERROR = WorkerState.UP, WorkerState.LOADING, WorkerState.ERROR


class Reports:
    """The reports that are read, and how often they were."""

    def __init__(self, *states: WorkerState) -> None:
        self.states = states
        self.reads = 0
        self.is_away = False

    async def read(self) -> list[WorkerReport]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise RedisConnectionError("away")
        return [
            WorkerReport(name=str(number), state=state, cause="no model") for number, state in enumerate(self.states)
        ]


def failure(*states: WorkerState) -> str:
    return asyncio.run(WorkerWatch(Reports(*states).read).failure())


def test_workers_that_have_all_failed_are_the_cause() -> None:
    assert failure(ERROR) == "no model"
    assert failure(ERROR, ERROR) == "no model"


def test_a_worker_that_can_run_tasks_or_may_soon_is_waited_for() -> None:
    assert [failure(UP), failure(ERROR, UP), failure(LOADING), failure(ERROR, LOADING), failure()] == [""] * 5


def test_many_requests_at_once_read_once() -> None:
    async def many() -> tuple[list[str], int]:
        reports = Reports(ERROR)
        watch = WorkerWatch(reports.read)
        return await asyncio.gather(*(watch.failure() for _ in range(100))), reports.reads

    assert asyncio.run(many()) == (["no model"] * 100, 1)


def test_a_change_is_seen_within_the_interval_and_without_waiting() -> None:
    async def change() -> None:
        reports = Reports(ERROR)
        watch = WorkerWatch(reports.read, interval=0.01)
        assert await watch.failure() == "no model"
        reports.states = (UP,)
        async with asyncio.timeout(10):
            while await watch.failure():
                await asyncio.sleep(0.005)
        watch.close()

    asyncio.run(change())


def test_redis_away_is_left_to_the_request() -> None:
    reports = Reports(ERROR)
    reports.is_away = True
    assert asyncio.run(WorkerWatch(reports.read).failure()) == ""
