"""Promises on an accepted task, on real services that are killed, cut off, and slower than every time-out."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from doubles.receiver import receiving, uri_for
from support.deployment import Deployment
from support.ports import find_free_port
from support.records import failed
from support.waiting import until

from app.serving.store import keys
from app.serving.store.claims import CLAIM_LEASE
from app.serving.store.dead_letters import DeadLetters

pytestmark = pytest.mark.local


def running(deployment: Deployment, task_id: str) -> bool:
    return deployment.status_of(task_id) == "STARTED"


def occupy(deployment: Deployment, *, until_file: str) -> None:
    """Give both processes something to do until there is a file of this name."""
    deployment.until_all_are_ready()
    begun = [deployment.root / f"begun-{until_file}-{number}" for number in range(2)]
    for path in begun:
        deployment.enqueue(once=path.name, until=until_file)
    # STARTED means that a worker has taken it.
    until(lambda: all(path.exists() for path in begun), what="both processes to be busy")


# Killed


def test_tasks_of_a_killed_worker_run_again_as_soon_as_it_is_back(single: Deployment) -> None:
    single.launch("denzel")
    tasks = [single.enqueue(once=f"begun-{number}", sleep=300) for number in range(2)]
    behind = single.enqueue()
    # STARTED means that a worker has taken it; the kill must come while the pipeline runs.
    until(lambda: all((single.root / f"begun-{number}").exists() for number in range(2)), what="both to be at work")
    single.kill("denzel")
    assert single.redis.hlen(keys.OWNERS) == 2
    started = time.monotonic()
    single.start("denzel")
    assert [single.ended(task).result for task in tasks] == [{"run": "again"}] * 2
    assert single.ended(behind).status == "SUCCESS"
    assert time.monotonic() - started < 30


def test_processes_below_a_supervisor_that_is_killed_end_too(single: Deployment) -> None:
    """Their tasks run again elsewhere, their memory is needed there, and nothing is to be left on a user's machine."""
    single.launch("denzel")
    task = single.enqueue(sleep=300)
    until(lambda: running(single, task), what="the task to run")
    assert single.sender() in single.processes("denzel")
    os.kill(single.running["denzel"].pid, signal.SIGKILL)
    single.running["denzel"].wait(10)
    until(lambda: not single.processes("denzel"), within=10, what="every process of the worker to be gone")


def test_a_worker_that_is_killed_is_started_again_and_its_tasks_run(single: Deployment) -> None:
    single.launch("denzel")
    task = single.enqueue(once="begun", sleep=300)
    until((single.root / "begun").exists, what="the task to run")
    sender = single.sender()
    os.kill(single.main_process(), signal.SIGKILL)
    assert single.ended(task).result == {"run": "again"}
    assert single.running["denzel"].poll() is None
    assert single.sender() == sender
    assert "the worker was ended by SIGKILL; starting it again in 1 s" in single.output("denzel")


def test_a_predicting_process_that_is_stopped_for_seconds_under_load_loses_nothing(single: Deployment) -> None:
    """Whatever it was about to do, and however often."""
    single.launch("denzel")
    tasks = []
    for _ in range(6):
        tasks += [single.enqueue(count="runs") for _ in range(40)]
        (stopped, *_) = (pid for pid in single.loads() if pid in single.processes("denzel"))
        os.kill(stopped, signal.SIGSTOP)
        try:
            # It may have taken a batch; the other one goes on with all the rest, and with what comes.
            behind = [single.enqueue(count="runs") for _ in range(100)]
            until(
                lambda behind=behind: sum(single.status_of(task) == "SUCCESS" for task in behind) >= 36, what="others"
            )
        finally:
            os.kill(stopped, signal.SIGCONT)
        tasks += behind
    assert {single.ended(task).status for task in tasks} == {"SUCCESS"}
    assert single.counted("runs") == len(tasks)
    assert {single.redis.hget(keys.task(task), "deliveries") for task in tasks} == {"1"}
    assert not single.redis.exists(keys.QUEUE, keys.UNACKED, keys.OWNERS)


def test_a_dead_letter_runs_again_when_it_is_replayed(shared: Deployment) -> None:
    task = shared.enqueue(die="until mended", unless="mended")
    assert shared.ended(task).status == "FAILURE"
    (shared.root / "mended").touch()
    assert DeadLetters(shared.redis).replay(task)
    assert shared.ended(task).status == "SUCCESS"


# Cancelled


def test_a_waiting_task_that_is_cancelled_never_runs(shared: Deployment) -> None:
    occupy(shared, until_file="first")
    waiting, behind = shared.enqueue(count="cancelled"), shared.enqueue()
    assert shared.cancel(waiting).json() == {"status": "REVOKED"}
    (shared.root / "first").touch()
    assert shared.ended(behind).status == "SUCCESS"
    assert shared.counted("cancelled") == 0
    assert shared.status_of(waiting) == "REVOKED"


def test_a_task_that_has_ended_cannot_be_cancelled(shared: Deployment) -> None:
    task = shared.enqueue()
    shared.ended(task)
    assert shared.cancel(task).status_code == 409
    assert shared.status_of(task) == "SUCCESS"


# Too long


def test_a_task_over_its_time_limit_fails_and_the_next_one_runs(single: Deployment) -> None:
    single.environ["TASK_TIME_LIMIT"] = "1.5"
    single.environ["WORKER_CONCURRENCY"] = "1"
    single.launch("denzel")
    slow, behind = single.enqueue(sleep=300), single.enqueue()
    assert single.ended(slow).result == failed("TimeLimitExceeded", "the task took longer than TASK_TIME_LIMIT, 1.5 s")
    assert single.ended(behind).status == "SUCCESS"
    assert len(single.loads()) == 2
    assert single.redis.hlen(keys.OWNERS) == 0


def make_it_stay(deployment: Deployment) -> None:
    """Let the worker learn that tasks are quick: then a process stays at the queue."""
    for _ in range(40):
        assert deployment.ended(deployment.enqueue()).status == "SUCCESS"


def test_a_slow_task_at_the_queue_has_its_whole_time(single: Deployment) -> None:
    single.environ["TASK_TIME_LIMIT"] = "6"
    single.environ["WORKER_CONCURRENCY"] = "1"
    single.launch("denzel")
    make_it_stay(single)
    # Both together take longer than one of them may.
    slow = [single.enqueue(sleep=4.5) for _ in range(2)]
    assert [single.ended(task).status for task in slow] == ["SUCCESS"] * 2
    assert len(single.loads()) == 1


def test_quick_tasks_do_not_wait_for_the_results_of_a_slow_one_behind_them(single: Deployment) -> None:
    single.environ["WORKER_CONCURRENCY"] = "1"
    single.launch("denzel")
    make_it_stay(single)
    # They gather while it runs, and go to the process together.
    first = single.enqueue(until="now")
    quick, slow = [single.enqueue() for _ in range(5)], single.enqueue(until="end")
    (single.root / "now").touch()
    until(lambda: all(single.status_of(task) == "SUCCESS" for task in [first, *quick]), what="the quick ones")
    assert not single.records.find(slow).is_finished  # type: ignore[union-attr]
    (single.root / "end").touch()
    assert single.ended(slow).status == "SUCCESS"


def test_a_task_at_the_queue_that_kills_its_process_ends_alone(single: Deployment) -> None:
    single.launch("denzel")
    make_it_stay(single)
    poison = single.enqueue(die=True)
    others = [single.enqueue() for _ in range(100)]
    assert all(single.ended(task).status == "SUCCESS" for task in others)
    assert single.ended(poison).result == failed("WorkerDied", "the worker died while running this task, 3 times")
    assert single.redis.hlen(keys.OWNERS) == 0


def test_a_task_that_is_cancelled_at_the_queue_is_stopped(single: Deployment) -> None:
    single.launch("denzel", "api")
    make_it_stay(single)
    long = single.enqueue(sleep=300)
    until(lambda: running(single, long), what="the task to run")
    assert single.cancel(long).status_code == 200
    until(lambda: len(single.loads()) == 3, what="another process in place of the one that was ended")
    assert single.ended(single.enqueue()).status == "SUCCESS"


def test_cancelled_tasks_do_not_make_the_next_ones_wait_for_a_place(shared: Deployment) -> None:
    occupy(shared, until_file="second")
    tasks = [shared.enqueue() for _ in range(3)]
    places = [shared.place(task) for task in tasks]
    assert places == [1, 2, 3]
    shared.cancel(tasks[0])
    assert [shared.place(task) for task in tasks] == [None, 1, 2]
    (shared.root / "second").touch()
    assert [shared.ended(task).status for task in tasks] == ["REVOKED", "SUCCESS", "SUCCESS"]


# Full


def test_at_the_memory_limit_nothing_is_accepted_and_what_was_is_run(shared: Deployment) -> None:
    occupy(shared, until_file="full")
    tasks = [shared.enqueue(count="at-the-limit") for _ in range(5)]
    shared.redis.config_set("maxmemory", "1")
    try:
        refused = shared.post({})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert refused.json()["description"] == "The queue's memory is full; nothing was accepted. Try again later."
        (shared.root / "full").touch()
        assert [shared.ended(task).status for task in tasks] == ["SUCCESS"] * 5
        os.kill(shared.loads()[-1], signal.SIGKILL)
        until(lambda: shared.worker()[0] == "UP", what="the worker to report")
    finally:
        shared.redis.config_set("maxmemory", "0")
    assert shared.counted("at-the-limit") == 5
    assert shared.post({}, prefer="wait=30").status_code == 200


# Four stories that take a minute or two each, at the same time


@dataclass
class Stories:
    """A task of three claim time-outs; a worker and a sender that are stopped dead; a Redis that is away for a minute;
    and a receiver that is away for two, on a port that is kept for it.
    """

    long: Deployment
    long_task: str
    hung: Deployment
    hung_task: str
    hung_processes: tuple[int, int]
    away: Deployment
    away_task: str
    callbacks: list[str]
    port: int
    begun: float


MINUTE = 60.0


@pytest.fixture(scope="module")
def stories(deploy: Callable[[], Deployment]) -> Stories:
    deployments = [deploy() for _ in range(3)]
    for deployment in deployments:
        deployment.environ["WORKER_CONCURRENCY"] = "1"
        deployment.launch("denzel", "api")
    long, hung, away = deployments
    port = find_free_port()
    callbacks = [away.submit({"callback_uri": uri_for("local", port)}) for _ in range(40)]
    until(lambda: all(away.redis.hget(keys.task(task), "callback_attempts") for task in callbacks), what="a first try")
    long_task = long.enqueue(sleep=3 * CLAIM_LEASE, count="runs")
    away_task = away.enqueue(sleep=MINUTE / 2, count="runs")
    until(lambda: running(long, long_task) and running(away, away_task), what="the tasks to run")
    running_task = hung.enqueue(once="begun", sleep=300)
    until((hung.root / "begun").exists, what="a task to run")
    hung_processes = hung.main_process(), hung.sender()
    for pid in hung_processes:
        os.kill(pid, signal.SIGSTOP)
    away.kill("redis")
    return Stories(
        long=long,
        long_task=long_task,
        hung=hung,
        hung_task=running_task,
        hung_processes=hung_processes,
        away=away,
        away_task=away_task,
        callbacks=callbacks,
        port=port,
        begun=time.monotonic(),
    )


@pytest.mark.slow
def test_a_worker_consumes_again_after_redis_was_away_for_a_minute(stories: Stories) -> None:
    away = stories.away
    until(lambda: time.monotonic() - stories.begun > MINUTE, within=MINUTE + 10, what="the minute to be over")
    away.start("redis")
    back = time.monotonic()
    task = away.submit_when_accepted()
    assert away.ended(task, within=60).status == "SUCCESS"
    assert time.monotonic() - back < 60
    assert away.ended(stories.away_task, within=60).status == "SUCCESS"
    assert away.counted("runs") == 1
    assert away.running["denzel"].poll() is None
    assert "hangs" not in away.output("denzel")


@pytest.mark.slow
def test_a_task_of_three_claim_timeouts_runs_once(stories: Stories) -> None:
    assert stories.long.ended(stories.long_task, within=4 * CLAIM_LEASE).status == "SUCCESS"
    assert stories.long.counted("runs") == 1
    assert stories.long.redis.hlen(keys.OWNERS) == 0


@pytest.mark.slow
def test_a_worker_and_a_sender_that_hang_are_replaced_and_their_work_is_done(stories: Stories) -> None:
    hung = stories.hung
    with receiving() as receiver:
        task = hung.enqueue_ended(receiver.uri())
        until(lambda: receiver.received, within=MINUTE, what="the callback")
    assert receiver.ids == [task]
    # What it ran when it was killed runs again.
    assert hung.ended(stories.hung_task, within=MINUTE).result == {"run": "again"}
    for name, before, now in zip(
        ("worker", "sender"), stories.hung_processes, (hung.main_process(), hung.sender()), strict=True
    ):
        assert now not in (0, before)
        assert hung.output("denzel").count(f"the {name} hangs, as it gives no heartbeat: killing it") == 1
    assert hung.running["denzel"].poll() is None


@pytest.mark.slow
def test_an_endpoint_that_was_down_for_two_minutes_gets_every_callback_once_it_is_back(stories: Stories) -> None:
    """Redis was away for one of them."""
    until(lambda: time.monotonic() - stories.begun > 2 * MINUTE, within=2 * MINUTE, what="two minutes to be over")
    with receiving(port=stories.port) as receiver:
        until(lambda: len(receiver.received) == len(stories.callbacks), within=MINUTE, what="every callback")
        reports = [stories.away.task(task) for task in stories.callbacks]
        until(lambda: not stories.away.redis.exists(keys.UNDELIVERED), what="the deliveries on record")
    assert sorted(receiver.ids) == sorted(stories.callbacks)
    assert all(report["callback"]["attempts"] > 1 for report in reports)
