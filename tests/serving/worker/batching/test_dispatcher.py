"""dispatcher.py: what a worker takes, hands to its processes, and gives back; on a real Redis."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker import state
from redis import Redis, RedisError

from app.serving.store import keys
from app.serving.store.claims import ClaimLimits, Claims, DeadLettered
from app.serving.store.messages import QueuedTask, task_message
from app.serving.store.tasks import TaskRecord, TaskStore
from app.serving.worker.batching.dispatcher import HEAD_OF_LINE_LIMIT, SUPERVISION_INTERVAL, BatchSettings, Dispatcher
from app.serving.worker.batching.events import WRITE_EVERY, WRITTEN_AT_ONCE
from app.serving.worker.batching.poller import POLL_TIMEOUT, SESSION_LIMIT, PollGrant, PollSession
from app.serving.worker.batching.runner import BatchResult, PolledTask, TaskResult
from app.serving.worker.batching.scoreboard import ALL, Scoreboard
from app.serving.worker.batching.sizing import MAX_IN_TURN
from app.serving.worker.batching.window import WINDOW_CHECK_INTERVAL
from app.serving.worker.transport import QoS

LIMITS = BatchSettings(batch_size=4, batch_wait=0.002, time_limit=7.0, deliveries=3, lifetime=60)


class Job:
    """A job of the pool, whose process does what the test says."""

    def __init__(self, arguments: Any, options: dict[str, Any], pool: Pool) -> None:
        self.slot: int = arguments[0]
        self.items: list[QueuedTask] = arguments[1]
        self.stay: PollGrant | None = arguments[2]
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
        self._pool.running.remove(self)
        ended = [TaskResult(task_id, "SUCCESS", runtime, "{}") for task_id in tasks or self.tasks]
        seconds = runtime if batches else runtime * len(ended)
        self.options["callback"](BatchResult(ended, waiting, batches, seconds))

    def die(self, error: Exception | None = None) -> None:
        self._pool.running.remove(self)
        try:
            raise error or WorkerLostError("SIGKILL")
        except (WorkerLostError, TimeLimitExceeded):
            self.options["error_callback"](ExceptionInfo())


class Pool:
    """The pool of Celery; it runs nothing."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.killed: list[tuple[int, int]] = []
        self.closed = False
        self.running: list[Job] = []

    def apply_async(self, run: Any, arguments: Any, **options: Any) -> Job | None:
        if self.closed:
            return None
        job = Job(arguments, options, self)
        self.jobs.append(job)
        self.running.append(job)
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

    def __init__(self, redis: Redis, *, processes: int = 2, limits: BatchSettings = LIMITS) -> None:
        self.records = TaskStore(redis)
        self.redis = redis
        self.worker = Worker()
        self.clock = Clock()
        self.scoreboard = Scoreboard(self.clock)
        self.claims = Claims(redis, ClaimLimits(deliveries=limits.deliveries, ttl=60))
        self.parcels = Dispatcher(self.claims, self.records, self.scoreboard, limits, lambda: None, clock=self.clock)  # type: ignore[arg-type,return-value]
        self.parcels.start(
            self.worker, ready=lambda: processes, has_dropped=lambda job: job not in self.worker.pool.running
        )

    def accept(self, *tasks: str) -> None:
        for task in tasks:
            self.records.enqueue(task, task_message(task, {"of": task}), callback_uri=None, queue_limit=1000)

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

    def stay(self, *tasks: str) -> PollSession:
        """A process that has done its parcel and stays at the queue; these tasks it has taken there, and runs now."""
        self.learn(runtime=0.0001, batches=True)
        self.accept("handed")
        self.take(after=0)
        stay = self.last.stay
        assert stay is not None
        self.last.accept(77)
        self.accept(*tasks)
        visit = PollSession(self.claims, self.scoreboard, self.last.slot, stay, clock=self.clock)
        assert [item.task_id for item in visit.next(waiting=len(tasks))] == list(tasks)
        self.records.complete("handed", "SUCCESS", {}, ttl=60)
        self.scoreboard.start(self.last.slot, ALL)
        return visit

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
    assert [len(job) for job in deployment.take()] == [MAX_IN_TURN]


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


@pytest.mark.parametrize(("runtime", "taken"), [(0.2, 16), (0.002, 31)], ids=["slow", "quick"])
def test_a_free_process_leaves_slow_tasks_of_batches_to_one_at_work(broker: Redis, runtime: float, taken: int) -> None:
    deployment = Deployment(broker, processes=2, limits=dataclasses.replace(LIMITS, batch_size=32))
    deployment.learn(runtime=runtime, batches=True)
    deployment.accept("at-work")
    deployment.take()
    deployment.accept(*[f"task-{number}" for number in range(31)])
    assert [len(tasks) for tasks in deployment.take()] == [taken]


def test_where_one_delivery_is_all_there_is_every_task_is_alone(broker: Redis) -> None:
    limits = BatchSettings(batch_size=4, batch_wait=0, time_limit=None, deliveries=1, lifetime=60)
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
    deployment.learn(runtime=0.006, batches=True)
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
    deployment.learn(runtime=0.006, batches=True)
    deployment.accept("a")
    deployment.take()
    deployment.accept("b")
    deployment.parcels.take()
    deployment.last.done(runtime=0.006, batches=True)
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
        deployment.records.enqueue(task, message, callback_uri=None, queue_limit=1000)
    assert deployment.take(after=0) == [["a", "b"]]
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
    accepted = float(deployment.redis.hget(keys.task("a"), "since") or 0)
    deployment.take()
    deployment.last.done(runtime=0.25)
    ((event, fields),) = deployment.worker.events
    assert (event, fields["uuid"], fields["runtime"], fields["args"]) == ("task-succeeded", "a", 0.25, "[{'of': 'a'}]")
    assert fields["received"] == pytest.approx(accepted, abs=1e-3)
    assert fields["received"] <= fields["started"]
    deployment.parcels.tell()
    assert deployment.worker.events[-1][0] == "flushed"


def test_the_dashboard_is_told_that_a_task_was_given_up(deployment: Deployment) -> None:
    deployment.accept("a")
    for _ in range(LIMITS.deliveries):
        deployment.take()
        deployment.last.die()
    ((event, fields),) = deployment.worker.events
    assert (event, fields["uuid"], fields["args"]) == ("task-failed", "a", "[{'of': 'a'}]")
    assert fields["exception"] == "the worker died while running this task, 3 times"


def test_the_dashboard_is_told_that_another_workers_task_was_given_up(deployment: Deployment) -> None:
    deployment.parcels.given_up(DeadLettered("a", "it died"))
    ((event, fields),) = deployment.worker.events
    assert (event, fields["uuid"], fields["exception"]) == ("task-failed", "a", "it died")


def test_the_dashboard_is_told_that_a_task_that_went_celerys_own_way_was_given_up(deployment: Deployment) -> None:
    qos = QoS(SimpleNamespace(intake=deployment.parcels))
    deployment.accept("a")
    for _ in range(LIMITS.deliveries):
        assert deployment.worker.events == []
        deployment.parcels.claims.take(free=1, limit=1)
        qos.reject("a", requeue=True)
    ((event, fields),) = deployment.worker.events
    assert (event, fields["uuid"]) == ("task-failed", "a")
    assert fields["exception"] == "the worker died while running this task, 3 times"


def test_a_line_of_the_log_names_some_tasks_that_ended(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for number in range(20):
        deployment.accept(f"task-{number}")
        deployment.take()
        deployment.last.done()
    deployment.parcels.tell()
    assert [line.count("SUCCESS") for line in caplog.messages] == [16, 4]


def test_the_log_names_the_tasks_that_ended_together(deployment: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    deployment.learn(runtime=0.0001)
    deployment.accept("a", "b")
    deployment.take()
    deployment.worker.pool.jobs[-1].done(runtime=0.25)
    assert caplog.messages == []
    deployment.parcels.tell()
    deployment.parcels.tell()
    assert caplog.messages == ["ended: first SUCCESS in 0.000 s, a SUCCESS in 0.250 s, b SUCCESS in 0.250 s"]


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
    deployment.scoreboard.start(deployment.last.slot, 1)
    deployment.last.die()
    assert deployment.waiting() == ["a", "b", "c"]
    assert [deployment.redis.hget(keys.task(task), "deliveries") for task in "abc"] == ["0", "1", "0"]
    assert deployment.take() == [["b"], ["a", "c"]]


def test_the_tasks_of_a_batch_whose_process_died_run_alone_from_then_on(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0001, batches=True)
    deployment.accept("good", "poison")
    deployment.take()
    deployment.scoreboard.start(deployment.last.slot, ALL)
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
    deployment.scoreboard.start(deployment.last.slot, ALL)
    deployment.last.die()
    assert deployment.take() == [["a"], ["b"]]
    assert deployment.waiting() == ["c", "d"]


def test_a_task_that_takes_too_long_fails_and_the_others_go_back(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("a", "b", "c")
    deployment.take()
    assert (
        deployment.last.options["timeout"]
        == 7.0 + HEAD_OF_LINE_LIMIT + SUPERVISION_INTERVAL + SESSION_LIMIT + POLL_TIMEOUT
    )
    deployment.scoreboard.start(deployment.last.slot, 1)
    deployment.last.die(TimeLimitExceeded(8.0))
    assert deployment.record("b").result == {"args": ["the task took longer than TASK_TIME_LIMIT, 7 s"]}
    assert deployment.waiting() == ["a", "c"]


def test_a_batch_that_takes_too_long_is_tried_one_by_one(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0001, batches=True)
    deployment.accept("a", "b")
    deployment.take()
    deployment.scoreboard.start(deployment.last.slot, ALL)
    deployment.last.die(TimeLimitExceeded(8.0))
    assert deployment.take() == [["a"], ["b"]]
    assert deployment.last.options["timeout"] == 7.0
    deployment.scoreboard.start(deployment.last.slot, ALL)
    deployment.last.die(TimeLimitExceeded(7.0))
    assert deployment.record("b").status == "FAILURE"
    assert deployment.record("a").status == "STARTED"


def test_a_running_task_that_is_cancelled_takes_its_process_and_no_other_task_along(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("a", "b", "c")
    deployment.take()
    deployment.last.accept(77)
    deployment.scoreboard.start(deployment.last.slot, 1)
    deployment.records.cancel("b", ttl=60)
    state.requests["b"].terminate(deployment.worker.pool)
    assert deployment.worker.pool.killed == [(77, signal.SIGKILL)]
    # It may have gone on to the next before it died.
    deployment.scoreboard.start(deployment.last.slot, 2)
    deployment.last.die()
    assert deployment.record("b").status == "REVOKED"
    assert ("task-revoked", "b") in [(event, fields["uuid"]) for event, fields in deployment.worker.events]
    assert deployment.take() == [["a", "c"]]


def test_a_cancelled_task_ends_its_batch_and_the_others_begin_anew_as_if_they_had_not_been_taken(
    deployment: Deployment,
) -> None:
    deployment.learn(runtime=0.0001, batches=True)
    deployment.accept(*"wxya")
    # As often as a task may be delivered.
    for batch in ("wxya", "xya", "ya"):
        assert deployment.take() == [list(batch)]
        deployment.last.accept(77)
        deployment.scoreboard.start(deployment.last.slot, ALL)
        deployment.records.cancel(batch[0], ttl=60)
        deployment.parcels.end_task(batch[0])
        deployment.last.die()
    assert deployment.worker.pool.killed == [(77, signal.SIGKILL)] * 3
    assert deployment.take() == [["a"]]
    assert deployment.redis.hget(keys.task("a"), "deliveries") == "1"


def test_a_task_that_is_cancelled_before_its_turn_in_a_parcel_never_runs(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("a", "b", "c")
    deployment.take()
    deployment.last.accept(77)
    deployment.records.cancel("b", ttl=60)
    deployment.parcels.end_task("b")
    assert deployment.scoreboard.start(deployment.last.slot, 0)  # not before it began: then it may run them all at once
    deployment.parcels.end_task("b")
    assert deployment.worker.pool.killed == []
    assert not deployment.scoreboard.start(deployment.last.slot, 1)
    deployment.last.done("a")
    assert deployment.take() == [["c"]]


def test_what_waits_behind_a_long_task_goes_back_to_the_queue(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0005)
    deployment.accept("long", "b", "c")
    deployment.take(after=0)
    deployment.last.accept(77)
    deployment.scoreboard.start(deployment.last.slot, 0)
    deployment.parcels.look()
    assert deployment.waiting() == []
    deployment.clock.now += HEAD_OF_LINE_LIMIT + 0.1
    deployment.parcels.look()
    assert deployment.waiting() == ["b", "c"]
    assert [deployment.record(task).position for task in ("b", "c")] == [1, 2]
    assert deployment.take() == [["b", "c"]]


def test_a_parcel_that_the_pool_has_dropped_goes_back(deployment: Deployment) -> None:
    deployment.accept("a")
    deployment.take()
    deployment.worker.pool.running.clear()
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
        patch.setattr(deployment.claims, "requeue", away)
        patch.setattr(deployment.records, "complete_many", away)
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
    monkeypatch.setattr("app.serving.worker.batching.in_flight.SLOTS", 2)
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
    deployment.scoreboard.start(second.slot, 0)
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

    give_back = deployment.claims.requeue
    deployment.accept("a")
    deployment.take()
    with monkeypatch.context() as patch:
        patch.setattr(deployment.claims, "requeue", unheard)
        deployment.last.die()
        assert deployment.take() == []
    assert deployment.take() == [["a"]]
    deployment.parcels.look()
    assert deployment.record("a").status == "STARTED"


# A process that stays at the queue


def test_a_process_may_stay_at_the_queue_while_tasks_are_quick(deployment: Deployment) -> None:
    deployment.accept("unknown")
    deployment.take()
    assert deployment.last.stay is None
    deployment.last.done(runtime=0.0001)
    deployment.accept("quick")
    deployment.take()
    assert deployment.last.stay == PollGrant(number=1, most=50)
    assert deployment.scoreboard.may_poll(deployment.last.slot)


@pytest.mark.parametrize("batches", [False, True])
def test_no_process_stays_where_tasks_are_slow(batches: bool, deployment: Deployment) -> None:
    deployment.learn(runtime=0.2, batches=batches)
    deployment.accept("slow")
    deployment.take()
    assert deployment.last.stay is None
    assert not deployment.scoreboard.may_poll(deployment.last.slot)


def test_one_process_at_a_time_stays(deployment: Deployment) -> None:
    deployment.stay("a")
    deployment.accept("b")
    assert deployment.take() == [["b"]]
    assert deployment.last.stay is None


def test_a_task_that_was_delivered_before_brings_no_stay(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0001)
    deployment.accept("suspect")
    deployment.claims.take(free=1, limit=1)
    deployment.claims.requeue({"suspect": True})
    deployment.take()
    assert deployment.last.stay is None


def test_no_process_stays_while_celery_was_told_to_revoke_something(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0001)
    state.revoked.add("anything")
    deployment.accept("a")
    deployment.take()
    assert deployment.last.stay is None


def test_what_comes_is_left_to_a_process_at_the_queue(deployment: Deployment) -> None:
    visit = deployment.stay("a")
    deployment.worker.called_after.clear()
    visit.next(waiting=0)
    deployment.accept("b")
    deployment.parcels.take()
    assert (deployment.parcels.room(), deployment.waiting()) == (0, ["b"])
    # It is looked at again, and one timer is enough for that.
    assert deployment.worker.called_after == [WINDOW_CHECK_INTERVAL]
    deployment.clock.now += WINDOW_CHECK_INTERVAL
    assert (deployment.parcels.room(), deployment.worker.called_after) == (0, [WINDOW_CHECK_INTERVAL] * 2)


def test_what_comes_is_not_left_to_a_process_that_hangs_at_the_queue(deployment: Deployment) -> None:
    visit = deployment.stay("a")
    visit.next(waiting=0)
    deployment.accept("b")
    deployment.clock.now += 2 * POLL_TIMEOUT
    assert deployment.parcels.room() == 1
    deployment.parcels.take()
    assert deployment.last.tasks == ["b"]


def test_what_comes_is_not_left_to_a_process_that_is_held_up(deployment: Deployment) -> None:
    deployment.stay("a")
    deployment.accept("b")
    assert deployment.parcels.room() == 0
    deployment.clock.now += LIMITS.batch_wait
    assert deployment.take() == [["b"]]


def test_a_worker_that_stops_calls_its_process_back(deployment: Deployment) -> None:
    visit = deployment.stay("a")
    deployment.parcels.stop()
    deployment.accept("b")
    assert visit.next(waiting=1) == []
    assert deployment.waiting() == ["b"]


def test_the_log_the_dashboard_and_celery_are_told_what_a_process_did_at_the_queue(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    deployment.stay("a", "b")
    deployment.records.cancel("b", ttl=60)
    job = deployment.last
    further = [PolledTask(TaskResult("a", "SUCCESS", 0.001, "{}"), "[1]", 1000.5, 1000.75)]
    deployment.worker.pool.running.remove(job)
    cancelled = [QueuedTask("gone", "", "[2]", 1000.25)]
    total = state.total_count["app.tasks.invoke_predict"]
    outcome = BatchResult([TaskResult("handed", "SUCCESS", 0.001, "{}")], 0, True, 0.002, further, ["b"], cancelled, 2)
    deployment.worker.events.clear()
    job.options["callback"](outcome)
    assert state.total_count["app.tasks.invoke_predict"] == total + 1
    caplog.set_level(logging.INFO)
    deployment.parcels.tell()
    assert [(event, fields.get("uuid")) for event, fields in deployment.worker.events] == [
        ("task-succeeded", "handed"),
        ("task-revoked", "gone"),
        ("task-succeeded", "a"),
        ("flushed", None),
    ]
    assert deployment.worker.events[1][1]["args"] == "[2]"
    told = deployment.worker.events[2][1]
    assert (told["args"], told["received"], told["started"]) == ("[1]", 1000.5, 1000.75)
    assert "a SUCCESS in 0.001 s" in caplog.text


def test_of_what_a_process_did_at_the_queue_some_is_told_at_a_time(deployment: Deployment) -> None:
    deployment.stay("a")
    deployment.worker.pool.running.remove(deployment.last)
    tasks = [
        PolledTask(TaskResult(f"task-{n}", "SUCCESS", 0.001, "{}"), "[1]", 0.0, 0.0) for n in range(WRITTEN_AT_ONCE + 1)
    ]
    deployment.worker.events.clear()
    deployment.last.options["callback"](BatchResult([], 0, True, 0.002, tasks))
    assert deployment.worker.events == []
    deployment.worker.called_after.clear()
    for _ in range(3):
        deployment.parcels.tell()
    events = [event for event, _ in deployment.worker.events]
    assert events.count("task-succeeded") == WRITTEN_AT_ONCE
    # One timer is enough.
    assert deployment.worker.called_after == [WRITE_EVERY]
    deployment.clock.now += WRITE_EVERY
    deployment.parcels.tell()
    assert [event for event, _ in deployment.worker.events[-2:]] == ["task-succeeded", "flushed"]


def test_what_a_process_has_left_goes_back(deployment: Deployment) -> None:
    deployment.stay("a", "b")
    deployment.worker.pool.running.remove(deployment.last)
    deployment.last.options["callback"](BatchResult([], 0, True, 0.002, [], ["a", "b"]))
    assert deployment.waiting() == ["a", "b"]
    assert deployment.take() == [["a", "b"]]


def test_tasks_at_the_queue_whose_process_died_are_counted_and_run_alone(deployment: Deployment) -> None:
    deployment.stay("a", "b")
    deployment.last.die()
    assert deployment.waiting() == ["a", "b"]
    assert deployment.record("handed").status == "SUCCESS"
    assert deployment.take() == [["a"], ["b"]]
    assert [job.stay for job in deployment.worker.pool.jobs[-2:]] == [None, None]


def test_a_task_at_the_queue_that_kills_its_process_too_often_is_given_up(deployment: Deployment) -> None:
    deployment.stay("poison")
    deployment.last.die()
    for _ in range(2):
        deployment.take()
        deployment.scoreboard.start(deployment.last.slot, ALL)
        deployment.last.die()
    assert deployment.record("poison").status == "FAILURE"


def test_tasks_at_the_queue_that_did_not_begin_when_their_process_died_are_all_suspects(deployment: Deployment) -> None:
    deployment.stay("a")
    deployment.records.complete("a", "SUCCESS", {}, ttl=60)
    deployment.accept("b", "c")
    # As if the process had died before it could say that it has them.
    deployment.claims.poll(deployment.parcels.visit, 2, limit=2)
    deployment.last.die()
    assert deployment.take() == [["b"], ["c"]]


def test_what_a_process_has_taken_goes_back_later_when_redis_can_not_be_asked(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.stay("a")

    def away(*_: Any) -> Any:
        raise RedisError("away")

    with monkeypatch.context() as patched:
        patched.setattr(deployment.claims, "session_tasks", away)
        deployment.last.die()
    assert deployment.waiting() == []
    # As if ten seconds had passed.
    deployment.redis.zincrby(keys.UNACKED_INDEX, -11, "a")
    deployment.redis.set(keys.LAST_RECLAIM, float(deployment.redis.time()[0]))  # type: ignore[arg-type]
    deployment.claims.renew(deployment.parcels.known(), deployment.parcels.visit)
    assert deployment.waiting() == ["a"]


def test_a_cancelled_task_at_the_queue_takes_its_process_along(deployment: Deployment) -> None:
    deployment.stay("a", "b")
    deployment.records.cancel("a", ttl=60)
    assert deployment.claims.renew(deployment.parcels.known(), deployment.parcels.visit).cancelled == ["a"]
    deployment.parcels.end_task("a")
    assert deployment.worker.pool.killed == [(77, signal.SIGKILL)]
    deployment.last.die()
    revoked = [fields["uuid"] for event, fields in deployment.worker.events if event == "task-revoked"]
    assert (revoked, deployment.waiting()) == (["a"], ["b"])


def test_a_cancelled_task_that_the_process_has_left_behind_kills_nothing(deployment: Deployment) -> None:
    visit = deployment.stay("a")
    deployment.records.cancel("a", ttl=60)
    deployment.accept("b")
    visit.next(waiting=1)
    deployment.parcels.end_task("a")
    assert deployment.worker.pool.killed == []


def test_a_long_task_at_the_queue_is_known_as_if_it_had_been_handed_over(deployment: Deployment) -> None:
    deployment.stay("long", "b", "c")
    deployment.scoreboard.start(deployment.last.slot, 0)
    deployment.worker.events.clear()
    deployment.clock.now += HEAD_OF_LINE_LIMIT + 0.1
    deployment.parcels.look()
    assert [(event, fields["uuid"]) for event, fields in deployment.worker.events] == [
        ("task-started", task) for task in ("long", "b", "c")
    ]
    assert "long" in {request.id for request in state.active_requests}
    assert deployment.waiting() == ["b", "c"]
    assert deployment.take() == [["b", "c"]]
    # The process says that it has left them; they are others' now.
    job = next(job for job in deployment.worker.pool.jobs if job.tasks == ["handed"])
    deployment.worker.pool.running.remove(job)
    further = [PolledTask(TaskResult("long", "SUCCESS", 1.2, "{}"), "[]", 0.0, 0.0)]
    job.options["callback"](BatchResult([], 0, True, 1.2, further, ["b", "c"]))
    assert deployment.waiting() == []
    assert {request.id for request in state.active_requests} == {"b", "c"}


def test_what_is_known_of_a_task_at_the_queue_is_since_when_it_waited(deployment: Deployment) -> None:
    deployment.learn(runtime=0.0001)
    deployment.accept("a", "long")
    since = float(deployment.redis.hget(keys.task("long"), "since") or 0)
    time.sleep(0.05)
    deployment.claims.poll(9, 1, limit=2)
    _, items = deployment.claims.session_tasks(9)
    assert items[1].since == pytest.approx(since, abs=0.02)


def test_a_task_at_the_queue_that_has_ended_is_not_told_to_run_and_keeps_its_arguments(deployment: Deployment) -> None:
    deployment.stay("quick", "long")
    deployment.records.complete("quick", "SUCCESS", {}, ttl=60)
    deployment.scoreboard.start(deployment.last.slot, 1)
    deployment.worker.events.clear()
    deployment.clock.now += 0.6
    deployment.parcels.look()
    assert [(event, fields["uuid"]) for event, fields in deployment.worker.events] == [("task-started", "long")]
    further = [PolledTask(TaskResult("quick", "SUCCESS", 0.001, "{}"), "[1]", 1000.5, 1000.75)]
    deployment.worker.pool.running.remove(deployment.last)
    deployment.last.options["callback"](BatchResult([], 0, True, 0.002, further, ["long"], [], 2))
    deployment.parcels.tell()
    assert [fields["args"] for event, fields in deployment.worker.events if event == "task-succeeded"] == ["[1]"]
    assert not state.active_requests


def test_a_process_whose_parcel_the_pool_has_dropped_takes_nothing_more(deployment: Deployment) -> None:
    visit = deployment.stay("a")
    deployment.worker.pool.running.remove(deployment.last)
    deployment.parcels.look()
    deployment.accept("b")
    assert visit.next(waiting=1) == []
    assert "b" in deployment.waiting()


def test_a_process_that_goes_on_is_not_taken_to_be_where_it_was(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.stay("a")
    deployment.scoreboard.start(deployment.last.slot, 0)
    index = deployment.scoreboard.index

    def index_and_go_on(slot: int) -> int:
        before = index(slot)
        deployment.scoreboard.assign_round(slot, 1, 2)
        deployment.scoreboard.start(slot, 0)
        return before

    monkeypatch.setattr(deployment.scoreboard, "index", index_and_go_on)
    deployment.parcels.end_task("a")
    assert deployment.worker.pool.killed == []


def test_a_task_at_the_queue_that_takes_too_long_fails(deployment: Deployment) -> None:
    deployment.stay("long", "b")
    deployment.scoreboard.start(deployment.last.slot, 0)
    deployment.last.die(TimeLimitExceeded(7))
    assert deployment.record("long").status == "FAILURE"
    assert deployment.take() == [["b"]]
