"""app/parcels.py: what a worker takes, hands to its processes, and gives back; on a real Redis."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker import state
from redis import Redis, RedisError

from app import keys
from app.board import ALL, Board
from app.claims import Claims, Limits
from app.messages import task_message
from app.parcel import Ended, Item, Outcome
from app.parcel_sizes import MOST_IN_TURN
from app.parcels import LONGEST_IN_FRONT, LOOK_EVERY, ParcelLimits, Parcels
from app.records import TaskRecord, TaskRecords

LIMITS = ParcelLimits(batch_size=4, batch_wait=0.002, time_limit=7.0, deliveries=3, lifetime=60)


class Job:
    """A job of the pool, whose process does what the test says."""

    def __init__(self, number: int, arguments: Any, options: dict[str, Any], pool: Pool) -> None:
        self._job = number
        self.slot: int = arguments[0]
        self.items: list[Item] = arguments[1]
        self.options = options
        self._pool = pool

    @property
    def tasks(self) -> list[str]:
        return [item.task_id for item in self.items]

    def ready(self) -> bool:
        return False

    def accept(self, pid: int) -> None:
        self.options["accept_callback"](pid, 0.0)

    def done(self, *tasks: str, runtime: float = 0.0001, waiting: int = 0, batches: bool = False) -> None:
        del self._pool._cache[self._job]
        ended = [Ended(task_id, "SUCCESS", runtime, "{}") for task_id in tasks or self.tasks]
        self.options["callback"](Outcome(ended, waiting, batches))

    def die(self, error: Exception | None = None) -> None:
        del self._pool._cache[self._job]
        try:
            raise error or WorkerLostError("SIGKILL")
        except (WorkerLostError, TimeLimitExceeded):
            self.options["error_callback"](ExceptionInfo())


class Pool:
    """Both the pool of Celery and that of billiard within; it runs nothing."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.killed: list[tuple[int, int]] = []
        self.closed = False
        self._cache: dict[int, Job] = {}
        self._pool = self

    def apply_async(self, run: Any, arguments: Any, **options: Any) -> Job | None:
        if self.closed:
            return None
        job = Job(len(self.jobs), arguments, options, self)
        self.jobs.append(job)
        self._cache[job._job] = job
        return job

    def terminate_job(self, pid: int, signal: int) -> None:
        self.killed.append((pid, signal))


class Worker:
    """What Parcels asks of Celery's worker."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.consumer = self
        self.event_dispatcher = self
        self.timer = self
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.called_after: list[float] = []

    def send(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def flush(self) -> None:
        self.events.append(("flushed", {}))

    def call_after(self, seconds: float, function: Callable[[], None]) -> None:
        self.called_after.append(seconds)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Deployment:
    """One worker with so many ready processes, and the queue."""

    def __init__(self, redis: Redis, *, processes: int = 2, limits: ParcelLimits = LIMITS) -> None:
        self.records = TaskRecords(redis)
        self.redis = redis
        self.worker = Worker()
        self.board = Board()
        self.clock = Clock()
        self.claims = Claims(redis, Limits(deliveries=limits.deliveries, lifetime=60))
        self.parcels = Parcels(self.claims, self.records, self.board, limits, lambda: None, clock=self.clock)  # type: ignore[arg-type,return-value]
        self.parcels.start(self.worker, lambda: processes)

    def accept(self, *tasks: str) -> None:
        for task in tasks:
            self.records.accept(task, task_message(task, {"of": task}), callback_uri=None, queue_limit=1000)

    def take(self, *, after: float = 1.0) -> list[list[str]]:
        """The tasks of each job that this brings about, as if what waits had gathered for so long."""
        before = len(self.worker.pool.jobs)
        self.parcels.take()
        self.clock.now += after
        if self.waiting():
            self.parcels.take()
        return [job.tasks for job in self.worker.pool.jobs[before:]]

    def learn(self, *, runtime: float, batches: bool = False) -> None:
        """A first task says what kind of pipeline this is."""
        self.accept("first")
        self.take()
        self.last.done(runtime=runtime, batches=batches)

    @property
    def last(self) -> Job:
        return self.worker.pool.jobs[-1]

    def record(self, task: str) -> TaskRecord:
        record = self.records.find(task)
        assert record is not None
        return record

    def waiting(self) -> list[str]:
        """What the queue holds, the next one first."""
        return [json.loads(each)["headers"]["id"] for each in reversed(self.redis.lrange(keys.QUEUE, 0, -1))]


@pytest.fixture(autouse=True)
def _celery_state() -> Iterator[None]:
    yield
    state.reset_state()


@pytest.fixture
def deployment(broker: Redis) -> Deployment:
    return Deployment(broker)


# How much is taken at once.


def test_one_slow_task_among_quick_ones_is_soon_forgotten(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    for number, runtime in enumerate([600.0] + [0.0005] * 8):
        deployment.accept(f"task-{number}")
        deployment.take()
        deployment.last.done(runtime=runtime)
    deployment.accept("a", "b")
    assert deployment.take() == [["a", "b"]]


def test_until_a_pipeline_is_known_a_process_gets_one_task(deployment: Deployment) -> None:
    deployment.accept("a", "b", "c")
    assert deployment.take() == [["a"], ["b"]]
    assert deployment.parcels.room() == 0


def test_quick_tasks_travel_together_and_are_not_shared_out(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept(*"abcdef")
    assert deployment.take() == [list("abcdef")]


def test_a_parcel_has_a_limit(broker: Redis) -> None:
    deployment = Deployment(broker, processes=1)
    deployment.learn(runtime=0.0)
    deployment.accept(*[f"task-{number}" for number in range(100)])
    assert [len(job) for job in deployment.take()] == [MOST_IN_TURN]


def test_slow_tasks_travel_alone(deployment: Deployment) -> None:
    deployment.learn(runtime=0.2)
    deployment.accept(*"abc")
    assert deployment.take() == [["a"], ["b"]]
    assert deployment.waiting() == ["c"]


def test_batches_are_as_large_as_the_setting_says(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0001, batches=True)
    deployment.accept(*"abcdefghij")
    assert deployment.take() == [list("abcd"), list("efgh")]
    assert deployment.waiting() == ["i", "j"]


def test_slow_batches_are_shared_out_evenly(deployment: Deployment) -> None:
    deployment.learn(runtime=0.1, batches=True)
    deployment.accept(*"abcdef")
    assert deployment.take() == [list("abc"), list("def")]


def test_where_one_delivery_is_all_there_is_every_task_is_alone(broker: Redis) -> None:
    limits = ParcelLimits(batch_size=4, batch_wait=0, time_limit=None, deliveries=1, lifetime=60)
    deployment = Deployment(broker, limits=limits)
    deployment.learn(runtime=0.0001, batches=True)
    deployment.accept(*"abc")
    assert deployment.take() == [["a"], ["b"]]


def test_a_worker_at_rest_takes_a_task_at_once(deployment: Deployment) -> None:
    deployment.accept("a")
    deployment.parcels.take()
    assert deployment.last.tasks == ["a"]
    assert deployment.worker.called_after == []


def test_while_a_process_is_at_work_what_waits_gathers_for_a_moment(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("a")
    deployment.take()
    deployment.accept("b")
    deployment.parcels.take()
    assert (deployment.waiting(), deployment.parcels.room()) == (["b"], 0)
    assert deployment.worker.called_after == [LIMITS.batch_wait]
    deployment.accept("c")
    deployment.clock.now += LIMITS.batch_wait
    assert deployment.parcels.room() == 1
    deployment.parcels.take()
    assert deployment.last.tasks == ["b", "c"]


def test_what_gathers_is_taken_when_the_worker_is_at_rest(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("a")
    deployment.take()
    deployment.accept("b")
    deployment.parcels.take()
    deployment.last.done()
    assert deployment.parcels.room() == 2
    deployment.parcels.take()
    assert deployment.last.tasks == ["b"]


def test_a_worker_that_stops_takes_nothing(deployment: Deployment) -> None:
    deployment.accept("a")
    deployment.parcels.stop()
    assert (deployment.parcels.room(), deployment.take()) == (0, [])


def test_a_task_that_a_closed_pool_refuses_goes_back(deployment: Deployment) -> None:
    deployment.worker.pool.closed = True
    deployment.accept("a")
    deployment.parcels.take()
    assert (deployment.waiting(), deployment.record("a").status) == (["a"], "PENDING")


# What goes Celery's own way.


@pytest.mark.parametrize("header", ["eta", "expires"])
def test_a_task_with_a_time_goes_celerys_own_way(header: str, deployment: Deployment) -> None:
    deployment.accept("a")
    message = json.loads(deployment.redis.rpop(keys.QUEUE))  # type: ignore[arg-type]
    message["headers"][header] = "2036-01-01T00:00:00+00:00"
    deployment.redis.lpush(keys.QUEUE, json.dumps(message))
    (others,) = deployment.parcels.take()
    assert json.loads(others)["headers"]["id"] == "a"
    assert deployment.worker.pool.jobs == []


def test_another_clients_task_and_a_revoked_one_go_celerys_own_way(deployment: Deployment) -> None:
    deployment.accept("theirs", "revoked", "ours")
    message = json.loads(deployment.redis.rpop(keys.QUEUE))  # type: ignore[arg-type]
    message["properties"]["delivery_tag"] = "another-tag"
    deployment.redis.rpush(keys.QUEUE, json.dumps(message))
    state.revoked.add("revoked")
    others = deployment.parcels.take()
    assert [json.loads(each)["headers"]["id"] for each in others] == ["theirs", "revoked"]


def test_large_messages_are_taken_a_few_at_a_time(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0001)
    for task in "abcd":
        message = task_message(task, {"large": "x" * 400_000})
        deployment.records.accept(task, message, callback_uri=None, queue_limit=1000)
    assert deployment.take() == [["a", "b"]]
    assert deployment.waiting() == ["c", "d"]


# What becomes of a parcel.


def test_celery_knows_the_tasks_of_a_parcel_while_they_run(deployment: Deployment) -> None:
    deployment.accept("a")
    deployment.take()
    deployment.last.accept(77)
    (request,) = state.active_requests
    assert request.info()["id"] == "a"
    assert request.info()["args"] == "[{'of': 'a'}]"
    assert request.info()["worker_pid"] == 77
    assert state.requests["a"] is request
    deployment.last.done()
    assert not state.active_requests
    assert "a" not in state.requests


def test_the_dashboard_is_told_of_a_quick_task_once(deployment: Deployment) -> None:
    deployment.accept("a")
    deployment.take()
    deployment.last.done(runtime=0.25)
    ((event, fields),) = deployment.worker.events
    assert (event, fields["uuid"], fields["runtime"], fields["args"]) == ("task-succeeded", "a", 0.25, "[{'of': 'a'}]")
    deployment.parcels.tell()
    assert deployment.worker.events[-1][0] == "flushed"


def test_the_dashboard_is_told_that_a_long_task_runs(deployment: Deployment) -> None:
    deployment.accept("a")
    deployment.take()
    for _ in range(3):
        deployment.clock.now += 1
        deployment.parcels.look()
    assert [(event, fields["uuid"]) for event, fields in deployment.worker.events] == [("task-started", "a")]


def test_the_claims_on_all_tasks_are_known(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("a", "b")
    deployment.take()
    assert deployment.parcels.known() == {"a": "a", "b": "b"}


def test_the_task_that_ran_when_its_process_died_is_counted_and_the_others_are_not(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("a", "b", "c")
    deployment.take()
    deployment.board.enter(deployment.last.slot, 1)
    deployment.last.die()
    assert deployment.waiting() == ["a", "b", "c"]
    assert [deployment.redis.hget(keys.task(task), "deliveries") for task in "abc"] == ["0", "1", "0"]
    assert deployment.take() == [["b"], ["a", "c"]]


def test_the_tasks_of_a_batch_whose_process_died_run_alone_from_then_on(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0001, batches=True)
    deployment.accept("good", "poison")
    deployment.take()
    deployment.board.enter(deployment.last.slot, ALL)
    deployment.last.die()
    assert deployment.take() == [["good"], ["poison"]]
    deployment.worker.pool.jobs[-2].done(batches=True)
    deployment.last.die()
    assert deployment.take() == [["poison"]]
    deployment.last.die()
    assert deployment.waiting() == []
    assert deployment.record("poison").result == {"args": ["the worker died while running this task, 3 times"]}


def test_more_suspects_than_processes_wait_in_the_queue(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0001, batches=True)
    deployment.accept(*"abcd")
    deployment.take()
    deployment.board.enter(deployment.last.slot, ALL)
    deployment.last.die()
    assert deployment.take() == [["a"], ["b"]]
    assert deployment.waiting() == ["c", "d"]


def test_a_task_that_takes_too_long_fails_and_the_others_go_back(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("a", "b", "c")
    deployment.take()
    assert deployment.last.options["timeout"] == 7.0 + LONGEST_IN_FRONT + LOOK_EVERY
    deployment.board.enter(deployment.last.slot, 1)
    deployment.last.die(TimeLimitExceeded(8.0))
    assert deployment.record("b").result == {"args": ["the task took longer than TASK_TIME_LIMIT, 7 s"]}
    assert deployment.waiting() == ["a", "c"]


def test_a_batch_that_takes_too_long_is_tried_one_by_one(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0001, batches=True)
    deployment.accept("a", "b")
    deployment.take()
    deployment.board.enter(deployment.last.slot, ALL)
    deployment.last.die(TimeLimitExceeded(8.0))
    assert deployment.take() == [["a"], ["b"]]
    assert deployment.last.options["timeout"] == 7.0
    deployment.board.enter(deployment.last.slot, ALL)
    deployment.last.die(TimeLimitExceeded(7.0))
    assert deployment.record("b").status == "FAILURE"
    assert deployment.record("a").status == "STARTED"


def test_a_running_task_that_is_cancelled_takes_its_process_and_no_other_task_along(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("a", "b", "c")
    deployment.take()
    deployment.last.accept(77)
    deployment.board.enter(deployment.last.slot, 1)
    deployment.records.cancel("b", lifetime=60)
    state.requests["b"].terminate(deployment.worker.pool)
    assert deployment.worker.pool.killed == [(77, signal.SIGKILL)]
    # It may have gone on to the next before it died.
    deployment.board.enter(deployment.last.slot, 2)
    deployment.last.die()
    assert deployment.record("b").status == "REVOKED"
    assert ("task-revoked", "b") in [(event, fields["uuid"]) for event, fields in deployment.worker.events]
    assert deployment.take() == [["a", "c"]]


def test_a_task_that_is_cancelled_before_its_turn_in_a_parcel_never_runs(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("a", "b", "c")
    deployment.take()
    deployment.last.accept(77)
    deployment.records.cancel("b", lifetime=60)
    deployment.parcels.end_task("b")
    assert deployment.board.enter(deployment.last.slot, 0)  # not before it began: then it may run them all at once
    deployment.parcels.end_task("b")
    assert deployment.worker.pool.killed == []
    assert not deployment.board.enter(deployment.last.slot, 1)
    deployment.last.done("a")
    assert deployment.take() == [["c"]]


def test_what_waits_behind_a_long_task_goes_back_to_the_queue(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("long", "b", "c")
    deployment.take(after=0)
    deployment.last.accept(77)
    deployment.board.enter(deployment.last.slot, 0)
    deployment.parcels.look()
    assert deployment.waiting() == []
    deployment.clock.now += LONGEST_IN_FRONT + 0.1
    deployment.parcels.look()
    assert deployment.waiting() == ["b", "c"]
    assert [deployment.record(task).position for task in ("b", "c")] == [1, 2]
    assert deployment.take() == [["b", "c"]]


def test_a_parcel_that_the_pool_has_dropped_goes_back(deployment: Deployment) -> None:
    deployment.accept("a")
    deployment.take()
    deployment.worker.pool._cache.clear()
    deployment.parcels.look()
    assert deployment.waiting() == ["a"]
    assert deployment.parcels.room() == 2


def test_what_can_not_be_given_back_now_is_kept_and_given_back_later(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise RedisError("Connection refused")

    deployment.accept("a", "b")
    deployment.take()
    with monkeypatch.context() as patch:
        patch.setattr(deployment.claims, "give_back", away)
        patch.setattr(deployment.records, "end_all", away)
        for job, error in zip(deployment.worker.pool.jobs, (None, TimeLimitExceeded(7.0)), strict=True):
            job.die(error)
        deployment.parcels.look()
        assert deployment.waiting() == []
        assert "a" in deployment.parcels.known()
    assert "Connection refused" in caplog.text
    deployment.parcels.look()
    assert deployment.waiting() == ["a"]
    assert deployment.record("b").status == "FAILURE"


def test_a_slot_is_not_given_away_while_its_parcel_runs(broker: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.parcels.SLOTS", 2)
    deployment = Deployment(broker)
    deployment.accept("long", *"abc")
    deployment.take()
    long = deployment.worker.pool.jobs[0]
    for _ in range(3):
        assert deployment.last.slot != long.slot
        deployment.last.done(runtime=1.0)
        deployment.take()


def test_a_parcel_is_closed_although_nobody_can_be_told_of_it(deployment: Deployment) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the socket is gone")

    deployment.accept("a", "b")
    deployment.take()
    deployment.worker.send = fail  # type: ignore[method-assign]
    first, second = deployment.worker.pool.jobs
    with pytest.raises(OSError, match="the socket is gone"):
        first.done()
    deployment.board.enter(second.slot, 0)
    with pytest.raises(OSError, match="the socket is gone"):
        second.die(TimeLimitExceeded(7.0))
    assert deployment.parcels.room() == 2


def test_a_pool_that_raises_takes_no_room(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no pipe")

    deployment.accept("a")
    with monkeypatch.context() as patch:
        patch.setattr(deployment.worker.pool, "apply_async", fail)
        with pytest.raises(OSError, match="no pipe"):
            deployment.parcels.take()
    assert (deployment.parcels.room(), deployment.waiting()) == (2, ["a"])


def test_those_whose_process_died_before_it_began_are_all_suspects(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0001)
    deployment.accept("a", "b")
    deployment.take()
    deployment.last.die()
    assert deployment.take() == [["a"], ["b"]]


def test_nothing_is_taken_while_something_is_to_be_given_back(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may have given it back, and its answer be lost. When it is taken again, it must not be given back again."""

    def unheard(tags: dict[str, bool]) -> None:
        give_back(tags)
        raise RedisError("the answer is lost")

    give_back = deployment.claims.give_back
    deployment.accept("a")
    deployment.take()
    with monkeypatch.context() as patch:
        patch.setattr(deployment.claims, "give_back", unheard)
        deployment.last.die()
        assert deployment.take() == []
    assert deployment.take() == [["a"]]
    deployment.parcels.look()
    assert deployment.record("a").status == "STARTED"
