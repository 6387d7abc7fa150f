"""dispatcher.py: tasks that a worker takes, assigns to its processes, and requeues; on a real Redis."""

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
from doubles.clock import Clock
from redis import Redis, RedisError
from support.records import record_of

from app.serving.settings import Settings
from app.serving.store import keys
from app.serving.store.claims import ClaimLimits, Claims, DeadLettered
from app.serving.store.messages import QueuedTask, task_message
from app.serving.store.tasks import TaskRecord, TaskStore
from app.serving.worker.batching.dispatcher import HEAD_OF_LINE_LIMIT, SUPERVISION_INTERVAL, Dispatcher
from app.serving.worker.batching.events import CREATE_INTERVAL, MAX_EVENTS_AT_ONCE
from app.serving.worker.batching.poller import POLL_TIMEOUT, SESSION_LIMIT, PollGrant, PollSession
from app.serving.worker.batching.runner import BatchResult, PolledTask, TaskResult
from app.serving.worker.batching.scoreboard import ALL, Scoreboard
from app.serving.worker.batching.sizing import MAX_IN_TURN
from app.serving.worker.batching.window import WINDOW_CHECK_INTERVAL
from app.serving.worker.transport import QoS

SETTINGS = Settings.from_environment({"BATCH_SIZE": "4", "TASK_TIME_LIMIT": "7", "RESULT_LIFETIME": "60"})


class Job:
    """A job of the pool, whose process is played by the test."""

    def __init__(self, arguments: Any, options: dict[str, Any], pool: Pool) -> None:
        self.slot: int = arguments[0]
        self.tasks = [task.task_id for task in arguments[1]]
        self.grant: PollGrant | None = arguments[2]
        self.options = options
        self._pool = pool

    def accept(self, pid: int) -> None:
        self.options["accept_callback"](pid, 0.0)

    def returns(self, result: BatchResult) -> None:
        self._pool.running.remove(self)
        self.options["callback"](result)

    def done(self, *tasks: str, runtime: float = 0.0001, batches: bool = False) -> None:
        ended = [TaskResult(task_id, "SUCCESS", runtime, "{}") for task_id in tasks or self.tasks]
        self.returns(BatchResult(ended, 0, batches, runtime if batches else runtime * len(ended)))

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
    """The parts of Celery's worker that Dispatcher uses."""

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


class Deployment:
    """One worker with so many ready processes, and the queue."""

    def __init__(self, redis: Redis, *, processes: int = 2, settings: Settings = SETTINGS) -> None:
        self.records = TaskStore(redis)
        self.redis = redis
        self.worker = Worker()
        self.clock = Clock()
        self.scoreboard = Scoreboard(self.clock)
        self.claims = Claims(redis, ClaimLimits(deliveries=settings.task_max_deliveries, ttl=60))
        self.dispatcher = Dispatcher(
            self.claims, self.records, self.scoreboard, settings, lambda: None, clock=self.clock
        )  # type: ignore[arg-type,return-value]
        self.dispatcher.start(
            self.worker, ready=lambda: processes, has_dropped=lambda job: job not in self.worker.pool.running
        )

    def accept(self, *tasks: str) -> None:
        for task in tasks:
            self.records.enqueue(task, task_message(task, {"of": task}), callback_uri=None, queue_limit=1000)

    def take(self, *, after: float = 1.0) -> list[list[str]]:
        """The tasks of each job that this brings about, once tasks have accumulated for so long."""
        before = len(self.worker.pool.jobs)
        self.dispatcher.take()
        self.clock.now += after
        if self.waiting():
            self.dispatcher.take()
        return [job.tasks for job in self.worker.pool.jobs[before:]]

    def hand_out(self, *tasks: str) -> None:
        self.accept(*tasks)
        self.take()

    def observe(self, *, runtime: float, batches: bool = False) -> None:
        """Let a first task show what kind of pipeline this is."""
        self.hand_out("first")
        self.last.done(runtime=runtime, batches=batches)

    def poll(self, *tasks: str) -> PollSession:
        """A process that has run its batch, has polled these tasks, and runs them now."""
        self.observe(runtime=0.0001, batches=True)
        self.accept("handed")
        self.take(after=0)
        grant = self.last.grant
        assert grant is not None
        self.last.accept(77)
        self.accept(*tasks)
        session = PollSession(self.claims, self.scoreboard, self.last.slot, grant, clock=self.clock)
        assert [task.task_id for task in session.next(waiting=len(tasks))] == list(tasks)
        self.records.complete("handed", "SUCCESS", {}, ttl=60)
        self.scoreboard.start(self.last.slot, ALL)
        return session

    @property
    def last(self) -> Job:
        return self.worker.pool.jobs[-1]

    def record(self, task: str) -> TaskRecord:
        return record_of(self.records, task)

    def waiting(self) -> list[str]:
        """The tasks in the queue, the next one first."""
        return [json.loads(each)["headers"]["id"] for each in reversed(self.redis.lrange(keys.QUEUE, 0, -1))]


@pytest.fixture(autouse=True)
def _celery_state() -> Iterator[None]:
    yield
    state.reset_state()


@pytest.fixture
def deployment(broker: Redis) -> Deployment:
    return Deployment(broker)


# Batch sizes and the batch window


def test_one_slow_task_among_quick_ones_is_soon_forgotten(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0005)
    for number, runtime in enumerate([600.0] + [0.0005] * 8):
        deployment.hand_out(f"task-{number}")
        deployment.last.done(runtime=runtime)
    deployment.accept("a", "b")
    assert deployment.take() == [["a", "b"]]


def test_until_the_first_result_a_process_gets_one_task(deployment: Deployment) -> None:
    deployment.accept("a", "b", "c")
    assert deployment.take() == [["a"], ["b"]]
    assert deployment.dispatcher.capacity() == 0


def test_quick_tasks_are_batched_and_not_split(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0005)
    deployment.accept(*"abcdef")
    assert deployment.take() == [list("abcdef")]


def test_a_batch_has_a_limit(broker: Redis) -> None:
    deployment = Deployment(broker, processes=1)
    deployment.observe(runtime=0.0)
    deployment.accept(*[f"task-{number}" for number in range(100)])
    assert [len(job) for job in deployment.take()] == [MAX_IN_TURN]


def test_slow_tasks_are_not_batched(deployment: Deployment) -> None:
    deployment.observe(runtime=0.2)
    deployment.accept(*"abc")
    assert deployment.take() == [["a"], ["b"]]
    assert deployment.waiting() == ["c"]


def test_batches_are_as_large_as_the_setting(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0001, batches=True)
    deployment.accept(*"abcdefghij")
    assert deployment.take() == [list("abcd"), list("efgh")]
    assert deployment.waiting() == ["i", "j"]


def test_slow_batches_are_split_evenly(deployment: Deployment) -> None:
    deployment.observe(runtime=0.1, batches=True)
    deployment.accept(*"abcdef")
    assert deployment.take() == [list("abc"), list("def")]


@pytest.mark.parametrize(("runtime", "taken"), [(0.2, 16), (0.002, 31)], ids=["slow", "quick"])
def test_a_free_process_leaves_slow_tasks_of_batches_to_one_at_work(broker: Redis, runtime: float, taken: int) -> None:
    deployment = Deployment(broker, processes=2, settings=dataclasses.replace(SETTINGS, batch_size=32))
    deployment.observe(runtime=runtime, batches=True)
    deployment.hand_out("at-work")
    deployment.accept(*[f"task-{number}" for number in range(31)])
    assert [len(tasks) for tasks in deployment.take()] == [taken]


def test_with_one_delivery_every_task_is_isolated(broker: Redis) -> None:
    deployment = Deployment(
        broker, settings=dataclasses.replace(SETTINGS, batch_wait=0, task_time_limit=None, task_max_deliveries=1)
    )
    deployment.observe(runtime=0.0001, batches=True)
    deployment.accept(*"abc")
    assert deployment.take() == [["a"], ["b"]]


def test_an_idle_worker_takes_a_task_at_once(deployment: Deployment) -> None:
    deployment.accept("a")
    deployment.dispatcher.take()
    assert deployment.last.tasks == ["a"]
    assert deployment.worker.called_after == []


def test_while_a_process_is_at_work_tasks_accumulate_for_the_batch_window(deployment: Deployment) -> None:
    deployment.observe(runtime=0.006, batches=True)
    deployment.hand_out("a")
    deployment.accept("b")
    deployment.dispatcher.take()
    assert (deployment.waiting(), deployment.dispatcher.capacity()) == (["b"], 0)
    assert deployment.worker.called_after == [SETTINGS.batch_wait]
    deployment.accept("c")
    deployment.clock.now += SETTINGS.batch_wait
    assert deployment.dispatcher.capacity() == 1
    deployment.dispatcher.take()
    assert deployment.last.tasks == ["b", "c"]


def test_the_batch_window_closes_when_the_worker_is_idle(deployment: Deployment) -> None:
    deployment.observe(runtime=0.006, batches=True)
    deployment.hand_out("a")
    deployment.accept("b")
    deployment.dispatcher.take()
    deployment.last.done(runtime=0.006, batches=True)
    assert deployment.dispatcher.capacity() == 2
    deployment.dispatcher.take()
    assert deployment.last.tasks == ["b"]


def test_a_stopping_worker_takes_nothing(deployment: Deployment) -> None:
    deployment.accept("a")
    deployment.dispatcher.stop()
    assert (deployment.dispatcher.capacity(), deployment.take()) == (0, [])


def test_a_task_that_a_closed_pool_refuses_is_requeued(deployment: Deployment) -> None:
    deployment.worker.pool.closed = True
    deployment.accept("a")
    deployment.dispatcher.take()
    assert (deployment.waiting(), deployment.record("a").status) == (["a"], "PENDING")


# Messages for Celery itself


@pytest.mark.parametrize("header", ["eta", "expires"])
def test_a_task_with_a_time_is_left_to_celery(header: str, deployment: Deployment) -> None:
    deployment.accept("a")
    message = json.loads(deployment.redis.rpop(keys.QUEUE))  # type: ignore[arg-type]
    message["headers"][header] = "2036-01-01T00:00:00+00:00"
    deployment.redis.lpush(keys.QUEUE, json.dumps(message))
    (for_celery,) = deployment.dispatcher.take()
    assert json.loads(for_celery)["headers"]["id"] == "a"
    assert deployment.worker.pool.jobs == []


def test_another_clients_task_and_a_revoked_one_are_left_to_celery(deployment: Deployment) -> None:
    deployment.accept("theirs", "revoked", "ours")
    message = json.loads(deployment.redis.rpop(keys.QUEUE))  # type: ignore[arg-type]
    message["properties"]["delivery_tag"] = "another-tag"
    deployment.redis.rpush(keys.QUEUE, json.dumps(message))
    state.revoked.add("revoked")
    for_celery = deployment.dispatcher.take()
    assert [json.loads(each)["headers"]["id"] for each in for_celery] == ["theirs", "revoked"]


def test_large_messages_are_taken_a_few_at_a_time(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0001)
    for task in "abcd":
        message = task_message(task, {"large": "x" * 400_000})
        deployment.records.enqueue(task, message, callback_uri=None, queue_limit=1000)
    assert deployment.take(after=0) == [["a", "b"]]
    assert deployment.waiting() == ["c", "d"]


# Events, failures, cancels


def test_celery_shows_the_tasks_of_a_batch_while_they_run(deployment: Deployment) -> None:
    deployment.hand_out("a")
    deployment.last.accept(77)
    (view,) = state.active_requests
    assert view.info()["id"] == "a"
    assert view.info()["args"] == "[{'of': 'a'}]"
    assert view.info()["worker_pid"] == 77
    assert state.requests["a"] is view
    deployment.last.done()
    assert not state.active_requests
    assert "a" not in state.requests


def test_a_quick_task_is_one_event(deployment: Deployment) -> None:
    deployment.accept("a")
    accepted = float(deployment.redis.hget(keys.task("a"), "since") or 0)
    deployment.take()
    deployment.last.done(runtime=0.25)
    ((event, fields),) = deployment.worker.events
    assert (event, fields["uuid"], fields["runtime"], fields["args"]) == ("task-succeeded", "a", 0.25, "[{'of': 'a'}]")
    assert fields["received"] == pytest.approx(accepted, abs=1e-3)
    assert fields["received"] <= fields["started"]
    deployment.dispatcher.events.flush()
    assert deployment.worker.events[-1][0] == "flushed"


def test_a_dead_lettered_task_is_an_event(deployment: Deployment) -> None:
    deployment.accept("a")
    for _ in range(SETTINGS.task_max_deliveries):
        deployment.take()
        deployment.last.die()
    ((event, fields),) = deployment.worker.events
    assert (event, fields["uuid"], fields["args"]) == ("task-failed", "a", "[{'of': 'a'}]")
    assert fields["exception"] == "the worker died while running this task, 3 times"


def test_another_workers_dead_lettered_task_is_an_event(deployment: Deployment) -> None:
    deployment.dispatcher.events.dead_lettered(DeadLettered("a", "it died"))
    ((event, fields),) = deployment.worker.events
    assert (event, fields["uuid"], fields["exception"]) == ("task-failed", "a", "it died")


def test_a_dead_lettered_task_that_celery_handled_is_an_event(deployment: Deployment) -> None:
    qos = QoS(SimpleNamespace(dispatcher=deployment.dispatcher))
    deployment.accept("a")
    for _ in range(SETTINGS.task_max_deliveries):
        assert deployment.worker.events == []
        deployment.dispatcher.claims.take(free=1, limit=1)
        qos.reject("a", requeue=True)
    ((event, fields),) = deployment.worker.events
    assert (event, fields["uuid"]) == ("task-failed", "a")
    assert fields["exception"] == "the worker died while running this task, 3 times"


def test_a_line_of_the_log_names_some_tasks_that_ended(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for number in range(20):
        deployment.hand_out(f"task-{number}")
        deployment.last.done()
    deployment.dispatcher.events.flush()
    assert [line.count("SUCCESS") for line in caplog.messages] == [16, 4]


def test_the_log_names_the_tasks_that_ended_together(deployment: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    deployment.observe(runtime=0.0001)
    deployment.hand_out("a", "b")
    deployment.worker.pool.jobs[-1].done(runtime=0.25)
    assert caplog.messages == []
    deployment.dispatcher.events.flush()
    deployment.dispatcher.events.flush()
    assert caplog.messages == ["ended: first SUCCESS in 0.000 s, a SUCCESS in 0.250 s, b SUCCESS in 0.250 s"]


def test_a_long_task_is_shown_as_started_once(deployment: Deployment) -> None:
    deployment.hand_out("a")
    for _ in range(3):
        deployment.clock.now += 1
        deployment.dispatcher.supervise()
    assert [(event, fields["uuid"]) for event, fields in deployment.worker.events] == [("task-started", "a")]


def test_all_tasks_of_a_batch_are_claimed(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0005)
    deployment.hand_out("a", "b")
    assert deployment.dispatcher.claimed() == {"a": "a", "b": "b"}


def test_the_task_that_ran_when_its_process_died_is_counted_and_the_others_are_not(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0005)
    deployment.hand_out("a", "b", "c")
    deployment.scoreboard.start(deployment.last.slot, 1)
    deployment.last.die()
    assert deployment.waiting() == ["a", "b", "c"]
    assert [deployment.redis.hget(keys.task(task), "deliveries") for task in "abc"] == ["0", "1", "0"]
    assert deployment.take() == [["b"], ["a", "c"]]


def test_the_tasks_of_a_batch_whose_process_died_are_isolated_from_then_on(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0001, batches=True)
    deployment.hand_out("good", "poison")
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
    deployment.observe(runtime=0.0001, batches=True)
    deployment.hand_out(*"abcd")
    deployment.scoreboard.start(deployment.last.slot, ALL)
    deployment.last.die()
    assert deployment.take() == [["a"], ["b"]]
    assert deployment.waiting() == ["c", "d"]


def test_a_task_that_takes_too_long_fails_and_the_others_are_requeued(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0005)
    deployment.hand_out("a", "b", "c")
    assert (
        deployment.last.options["timeout"]
        == 7.0 + HEAD_OF_LINE_LIMIT + SUPERVISION_INTERVAL + SESSION_LIMIT + POLL_TIMEOUT
    )
    deployment.scoreboard.start(deployment.last.slot, 1)
    deployment.last.die(TimeLimitExceeded(8.0))
    assert deployment.record("b").result == {"args": ["the task took longer than TASK_TIME_LIMIT, 7 s"]}
    assert deployment.waiting() == ["a", "c"]


def test_a_batch_that_takes_too_long_is_tried_one_by_one(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0001, batches=True)
    deployment.hand_out("a", "b")
    deployment.scoreboard.start(deployment.last.slot, ALL)
    deployment.last.die(TimeLimitExceeded(8.0))
    assert deployment.take() == [["a"], ["b"]]
    assert deployment.last.options["timeout"] == 7.0
    deployment.scoreboard.start(deployment.last.slot, ALL)
    deployment.last.die(TimeLimitExceeded(7.0))
    assert deployment.record("b").status == "FAILURE"
    assert deployment.record("a").status == "STARTED"


def test_a_cancelled_task_that_runs_ends_with_its_process_and_no_other_task_does(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0005)
    deployment.hand_out("a", "b", "c")
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


def test_a_cancelled_task_ends_its_batch_and_the_others_start_anew_with_no_delivery_counted(
    deployment: Deployment,
) -> None:
    deployment.observe(runtime=0.0001, batches=True)
    deployment.accept(*"wxya")
    # As often as a task may be delivered.
    for batch in ("wxya", "xya", "ya"):
        assert deployment.take() == [list(batch)]
        deployment.last.accept(77)
        deployment.scoreboard.start(deployment.last.slot, ALL)
        deployment.records.cancel(batch[0], ttl=60)
        deployment.dispatcher.cancel(batch[0])
        deployment.last.die()
    assert deployment.worker.pool.killed == [(77, signal.SIGKILL)] * 3
    assert deployment.take() == [["a"]]
    assert deployment.redis.hget(keys.task("a"), "deliveries") == "1"


def test_a_task_that_is_cancelled_before_its_turn_in_a_batch_never_runs(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0005)
    deployment.hand_out("a", "b", "c")
    deployment.last.accept(77)
    deployment.records.cancel("b", ttl=60)
    deployment.dispatcher.cancel("b")
    assert deployment.scoreboard.start(deployment.last.slot, 0)  # not before it started: it may run them all at once
    deployment.dispatcher.cancel("b")
    assert deployment.worker.pool.killed == []
    assert not deployment.scoreboard.start(deployment.last.slot, 1)
    deployment.last.done("a")
    assert deployment.take() == [["c"]]


def test_what_waits_behind_a_long_task_is_requeued(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0005)
    deployment.accept("long", "b", "c")
    deployment.take(after=0)
    deployment.last.accept(77)
    deployment.scoreboard.start(deployment.last.slot, 0)
    deployment.dispatcher.supervise()
    assert deployment.waiting() == []
    deployment.clock.now += HEAD_OF_LINE_LIMIT + 0.1
    deployment.dispatcher.supervise()
    assert deployment.waiting() == ["b", "c"]
    assert [deployment.record(task).position for task in ("b", "c")] == [1, 2]
    assert deployment.take() == [["b", "c"]]


def test_a_batch_that_the_pool_has_dropped_is_requeued(deployment: Deployment) -> None:
    deployment.hand_out("a")
    deployment.worker.pool.running.clear()
    deployment.dispatcher.supervise()
    assert deployment.waiting() == ["a"]
    assert deployment.dispatcher.capacity() == 2


def test_settlements_that_redis_does_not_take_are_kept_for_later(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise RedisError("Connection refused")

    deployment.hand_out("a", "b")
    with monkeypatch.context() as patch:
        patch.setattr(deployment.claims, "requeue", away)
        patch.setattr(deployment.records, "complete_many", away)
        for job, error in zip(deployment.worker.pool.jobs, (None, TimeLimitExceeded(7.0)), strict=True):
            job.die(error)
        deployment.dispatcher.supervise()
        assert deployment.waiting() == []
        assert "a" in deployment.dispatcher.claimed()
    assert "Connection refused" in caplog.text
    deployment.dispatcher.supervise()
    assert deployment.waiting() == ["a"]
    assert deployment.record("b").status == "FAILURE"


def test_a_slot_is_not_assigned_again_while_its_batch_runs(broker: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.serving.worker.batching.in_flight.SLOTS", 2)
    deployment = Deployment(broker)
    deployment.hand_out("long", *"abc")
    long = deployment.worker.pool.jobs[0]
    for _ in range(3):
        assert deployment.last.slot != long.slot
        deployment.last.done(runtime=1.0)
        deployment.take()


def test_a_batch_is_closed_although_its_events_cannot_be_sent(deployment: Deployment) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the socket is gone")

    deployment.hand_out("a", "b")
    deployment.worker.send = fail  # type: ignore[method-assign]
    first, second = deployment.worker.pool.jobs
    with pytest.raises(OSError, match="the socket is gone"):
        first.done()
    deployment.scoreboard.start(second.slot, 0)
    with pytest.raises(OSError, match="the socket is gone"):
        second.die(TimeLimitExceeded(7.0))
    assert deployment.dispatcher.capacity() == 2


def test_a_pool_that_raises_costs_no_capacity(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no pipe")

    deployment.accept("a")
    with monkeypatch.context() as patch:
        patch.setattr(deployment.worker.pool, "apply_async", fail)
        with pytest.raises(OSError, match="no pipe"):
            deployment.dispatcher.take()
    assert (deployment.dispatcher.capacity(), deployment.waiting()) == (2, ["a"])


def test_all_tasks_of_a_process_that_died_before_it_started_one_are_suspects(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0001)
    deployment.hand_out("a", "b")
    deployment.last.die()
    assert deployment.take() == [["a"], ["b"]]


def test_nothing_is_taken_while_something_is_to_be_requeued(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may have requeued it, and its answer be lost. When it is taken again, it must not be requeued again."""

    def requeue_without_answer(tags: dict[str, bool]) -> None:
        requeue(tags)
        raise RedisError("the answer is lost")

    requeue = deployment.claims.requeue
    deployment.hand_out("a")
    with monkeypatch.context() as patch:
        patch.setattr(deployment.claims, "requeue", requeue_without_answer)
        deployment.last.die()
        assert deployment.take() == []
    assert deployment.take() == [["a"]]
    deployment.dispatcher.supervise()
    assert deployment.record("a").status == "STARTED"


# Polling


def test_a_process_may_poll_while_tasks_are_quick(deployment: Deployment) -> None:
    deployment.hand_out("unknown")
    assert deployment.last.grant is None
    deployment.last.done(runtime=0.0001)
    deployment.hand_out("quick")
    assert deployment.last.grant == PollGrant(session_id=1, limit=50)
    assert deployment.scoreboard.may_poll(deployment.last.slot)


@pytest.mark.parametrize("batches", [False, True])
def test_no_process_polls_while_tasks_are_slow(batches: bool, deployment: Deployment) -> None:
    deployment.observe(runtime=0.2, batches=batches)
    deployment.hand_out("slow")
    assert deployment.last.grant is None
    assert not deployment.scoreboard.may_poll(deployment.last.slot)


def test_one_process_at_a_time_polls(deployment: Deployment) -> None:
    deployment.poll("a")
    deployment.accept("b")
    assert deployment.take() == [["b"]]
    assert deployment.last.grant is None


def test_a_task_that_was_delivered_before_brings_no_poll_grant(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0001)
    deployment.accept("suspect")
    deployment.claims.take(free=1, limit=1)
    deployment.claims.requeue({"suspect": True})
    deployment.take()
    assert deployment.last.grant is None


def test_no_process_polls_while_celery_has_revoked_something(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0001)
    state.revoked.add("anything")
    deployment.hand_out("a")
    assert deployment.last.grant is None


def test_new_tasks_are_left_to_an_idle_poller(deployment: Deployment) -> None:
    session = deployment.poll("a")
    deployment.worker.called_after.clear()
    session.next(waiting=0)
    deployment.accept("b")
    deployment.dispatcher.take()
    assert (deployment.dispatcher.capacity(), deployment.waiting()) == (0, ["b"])
    # It is checked again, and one timer is enough for that.
    assert deployment.worker.called_after == [WINDOW_CHECK_INTERVAL]
    deployment.clock.now += WINDOW_CHECK_INTERVAL
    assert (deployment.dispatcher.capacity(), deployment.worker.called_after) == (0, [WINDOW_CHECK_INTERVAL] * 2)


def test_new_tasks_are_not_left_to_a_poller_that_hangs(deployment: Deployment) -> None:
    session = deployment.poll("a")
    session.next(waiting=0)
    deployment.accept("b")
    deployment.clock.now += 2 * POLL_TIMEOUT
    assert deployment.dispatcher.capacity() == 1
    deployment.dispatcher.take()
    assert deployment.last.tasks == ["b"]


def test_new_tasks_are_not_left_to_a_poller_that_is_held_up(deployment: Deployment) -> None:
    deployment.poll("a")
    deployment.accept("b")
    assert deployment.dispatcher.capacity() == 0
    deployment.clock.now += SETTINGS.batch_wait
    assert deployment.take() == [["b"]]


def test_a_stopping_worker_revokes_the_poll_grant(deployment: Deployment) -> None:
    session = deployment.poll("a")
    deployment.dispatcher.stop()
    deployment.accept("b")
    assert session.next(waiting=1) == []
    assert deployment.waiting() == ["b"]


def test_polled_tasks_are_in_the_log_on_the_dashboard_and_in_celerys_counts(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    deployment.poll("a", "b")
    deployment.records.cancel("b", ttl=60)
    job = deployment.last
    polled = [PolledTask(TaskResult("a", "SUCCESS", 0.001, "{}"), "[1]", 1000.5, 1000.75)]
    cancelled = [QueuedTask("gone", "", "[2]", 1000.25)]
    total = state.total_count["app.tasks.invoke_predict"]
    result = BatchResult([TaskResult("handed", "SUCCESS", 0.001, "{}")], 0, True, 0.002, polled, ["b"], cancelled, 2)
    deployment.worker.events.clear()
    job.returns(result)
    assert state.total_count["app.tasks.invoke_predict"] == total + 1
    caplog.set_level(logging.INFO)
    deployment.dispatcher.events.flush()
    assert [(event, fields.get("uuid")) for event, fields in deployment.worker.events] == [
        ("task-succeeded", "handed"),
        ("task-revoked", "gone"),
        ("task-succeeded", "a"),
        ("flushed", None),
    ]
    assert deployment.worker.events[1][1]["args"] == "[2]"
    fields = deployment.worker.events[2][1]
    assert (fields["args"], fields["received"], fields["started"]) == ("[1]", 1000.5, 1000.75)
    assert "a SUCCESS in 0.001 s" in caplog.text


def test_the_events_of_polled_tasks_are_created_some_at_a_time(deployment: Deployment) -> None:
    deployment.poll("a")
    tasks = [
        PolledTask(TaskResult(f"task-{n}", "SUCCESS", 0.001, "{}"), "[1]", 0.0, 0.0)
        for n in range(MAX_EVENTS_AT_ONCE + 1)
    ]
    deployment.worker.events.clear()
    deployment.last.returns(BatchResult([], 0, True, 0.002, tasks))
    assert deployment.worker.events == []
    deployment.worker.called_after.clear()
    for _ in range(3):
        deployment.dispatcher.events.flush()
    events = [event for event, _ in deployment.worker.events]
    assert events.count("task-succeeded") == MAX_EVENTS_AT_ONCE
    # One timer is enough.
    assert deployment.worker.called_after == [CREATE_INTERVAL]
    deployment.clock.now += CREATE_INTERVAL
    deployment.dispatcher.events.flush()
    assert [event for event, _ in deployment.worker.events[-2:]] == ["task-succeeded", "flushed"]


def test_polled_tasks_that_did_not_run_are_requeued(deployment: Deployment) -> None:
    deployment.poll("a", "b")
    deployment.last.returns(BatchResult([], 0, True, 0.002, [], ["a", "b"]))
    assert deployment.waiting() == ["a", "b"]
    assert deployment.take() == [["a", "b"]]


def test_polled_tasks_whose_process_died_are_counted_and_isolated(deployment: Deployment) -> None:
    deployment.poll("a", "b")
    deployment.last.die()
    assert deployment.waiting() == ["a", "b"]
    assert deployment.record("handed").status == "SUCCESS"
    assert deployment.take() == [["a"], ["b"]]
    assert [job.grant for job in deployment.worker.pool.jobs[-2:]] == [None, None]


def test_a_polled_task_that_kills_its_process_too_often_is_dead_lettered(deployment: Deployment) -> None:
    deployment.poll("poison")
    deployment.last.die()
    for _ in range(2):
        deployment.take()
        deployment.scoreboard.start(deployment.last.slot, ALL)
        deployment.last.die()
    assert deployment.record("poison").status == "FAILURE"


def test_all_polled_tasks_of_a_process_that_died_before_it_started_one_are_suspects(deployment: Deployment) -> None:
    deployment.poll("a")
    deployment.records.complete("a", "SUCCESS", {}, ttl=60)
    deployment.accept("b", "c")
    # As if the process had died before it could publish that it has them.
    deployment.claims.poll(deployment.dispatcher.session_id, 2, limit=2)
    deployment.last.die()
    assert deployment.take() == [["b"], ["c"]]


def test_polled_tasks_that_redis_cannot_name_are_requeued_later(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.poll("a")

    def away(*_: Any) -> Any:
        raise RedisError("away")

    with monkeypatch.context() as patched:
        patched.setattr(deployment.claims, "session_tasks", away)
        deployment.last.die()
    assert deployment.waiting() == []
    # As if ten seconds had passed.
    deployment.redis.zincrby(keys.UNACKED_INDEX, -11, "a")
    deployment.redis.set(keys.LAST_RECLAIM, float(deployment.redis.time()[0]))  # type: ignore[arg-type]
    deployment.claims.renew(deployment.dispatcher.claimed(), deployment.dispatcher.session_id)
    assert deployment.waiting() == ["a"]


def test_a_cancelled_polled_task_ends_with_its_process(deployment: Deployment) -> None:
    deployment.poll("a", "b")
    deployment.records.cancel("a", ttl=60)
    assert deployment.claims.renew(deployment.dispatcher.claimed(), deployment.dispatcher.session_id).cancelled == ["a"]
    deployment.dispatcher.cancel("a")
    assert deployment.worker.pool.killed == [(77, signal.SIGKILL)]
    deployment.last.die()
    revoked = [fields["uuid"] for event, fields in deployment.worker.events if event == "task-revoked"]
    assert (revoked, deployment.waiting()) == (["a"], ["b"])


def test_a_cancelled_task_of_an_earlier_round_kills_nothing(deployment: Deployment) -> None:
    session = deployment.poll("a")
    deployment.records.cancel("a", ttl=60)
    deployment.accept("b")
    session.next(waiting=1)
    deployment.dispatcher.cancel("a")
    assert deployment.worker.pool.killed == []


def test_a_long_polled_task_is_treated_like_an_assigned_one(deployment: Deployment) -> None:
    deployment.poll("long", "b", "c")
    deployment.scoreboard.start(deployment.last.slot, 0)
    deployment.worker.events.clear()
    deployment.clock.now += HEAD_OF_LINE_LIMIT + 0.1
    deployment.dispatcher.supervise()
    assert [(event, fields["uuid"]) for event, fields in deployment.worker.events] == [
        ("task-started", task) for task in ("long", "b", "c")
    ]
    assert "long" in {request.id for request in state.active_requests}
    assert deployment.waiting() == ["b", "c"]
    assert deployment.take() == [["b", "c"]]
    # The process returns that it did not run them; they are others' now.
    job = next(job for job in deployment.worker.pool.jobs if job.tasks == ["handed"])
    polled = [PolledTask(TaskResult("long", "SUCCESS", 1.2, "{}"), "[]", 0.0, 0.0)]
    job.returns(BatchResult([], 0, True, 1.2, polled, ["b", "c"]))
    assert deployment.waiting() == []
    assert {request.id for request in state.active_requests} == {"b", "c"}


def test_a_polled_task_keeps_the_time_since_when_it_waited(deployment: Deployment) -> None:
    deployment.observe(runtime=0.0001)
    deployment.accept("a", "long")
    since = float(deployment.redis.hget(keys.task("long"), "since") or 0)
    time.sleep(0.05)
    deployment.claims.poll(9, 1, limit=2)
    _, tasks = deployment.claims.session_tasks(9)
    assert tasks[1].since == pytest.approx(since, abs=0.02)


def test_a_polled_task_that_has_ended_is_not_shown_as_started_and_keeps_its_arguments(deployment: Deployment) -> None:
    deployment.poll("quick", "long")
    deployment.records.complete("quick", "SUCCESS", {}, ttl=60)
    deployment.scoreboard.start(deployment.last.slot, 1)
    deployment.worker.events.clear()
    deployment.clock.now += 0.6
    deployment.dispatcher.supervise()
    assert [(event, fields["uuid"]) for event, fields in deployment.worker.events] == [("task-started", "long")]
    polled = [PolledTask(TaskResult("quick", "SUCCESS", 0.001, "{}"), "[1]", 1000.5, 1000.75)]
    deployment.last.returns(BatchResult([], 0, True, 0.002, polled, ["long"], [], 2))
    deployment.dispatcher.events.flush()
    assert [fields["args"] for event, fields in deployment.worker.events if event == "task-succeeded"] == ["[1]"]
    assert not state.active_requests


def test_a_poller_whose_batch_the_pool_has_dropped_takes_nothing_more(deployment: Deployment) -> None:
    session = deployment.poll("a")
    deployment.worker.pool.running.remove(deployment.last)
    deployment.dispatcher.supervise()
    deployment.accept("b")
    assert session.next(waiting=1) == []
    assert "b" in deployment.waiting()


def test_a_poller_that_goes_on_is_not_killed_for_a_task_of_its_last_round(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.poll("a")
    deployment.scoreboard.start(deployment.last.slot, 0)
    index = deployment.scoreboard.index

    def index_and_go_on(slot: int) -> int:
        before = index(slot)
        deployment.scoreboard.assign_round(slot, 1, 2)
        deployment.scoreboard.start(slot, 0)
        return before

    monkeypatch.setattr(deployment.scoreboard, "index", index_and_go_on)
    deployment.dispatcher.cancel("a")
    assert deployment.worker.pool.killed == []


def test_a_polled_task_that_takes_too_long_fails(deployment: Deployment) -> None:
    deployment.poll("long", "b")
    deployment.scoreboard.start(deployment.last.slot, 0)
    deployment.last.die(TimeLimitExceeded(7))
    assert deployment.record("long").status == "FAILURE"
    assert deployment.take() == [["b"]]
