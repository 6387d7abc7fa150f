"""What is promised of an accepted task, on real services that are killed, cut off, and slower than every time-out."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from doubles.receivers import receiving
from support.deployment import Deployment
from support.ports import find_free_port
from support.waiting import until

from app.serving.store import keys
from app.serving.store.claims import LEASE
from app.serving.store.dead_letters import DeadLetters
from app.serving.worker.batching.sizing import MAX_IN_TURN

pytestmark = pytest.mark.local


def running(deployment: Deployment, task_id: str) -> bool:
    return deployment.status_of(task_id) == "STARTED"


def cancel(deployment: Deployment, task_id: str) -> requests.Response:
    return requests.delete(deployment.url(f"/status/{task_id}"), timeout=30)


def occupy(deployment: Deployment, *, until_file: str) -> None:
    """Give both processes something to do until there is a file of this name."""
    tasks = [deployment.submit(until=until_file) for _ in range(2)]
    until(lambda: all(running(deployment, task) for task in tasks), what="both processes to be busy")


# Killed


def test_what_a_killed_worker_had_runs_again_as_soon_as_it_is_back(single: Deployment) -> None:
    single.launch("denzel")
    tasks = [single.submit(once=f"begun-{number}", sleep=300) for number in range(2)]
    behind = single.submit()
    # STARTED says that a worker has taken it; the kill is to find the pipeline at work.
    until(lambda: all((single.root / f"begun-{number}").exists() for number in range(2)), what="both to be at work")
    single.end("denzel")
    single.running["denzel"].wait(10)
    assert single.redis.hlen(keys.OWNERS) == 2
    started = time.monotonic()
    single.start("denzel")
    assert [single.ended(task).result for task in tasks] == [{"run": "again"}] * 2
    assert single.ended(behind).status == "SUCCESS"
    assert time.monotonic() - started < 30


def test_processes_of_a_killed_worker_end_too(single: Deployment) -> None:
    """Their tasks run again elsewhere, and their memory is needed there."""
    single.launch("denzel")
    task = single.submit(sleep=300)
    until(lambda: running(single, task), what="the task to run")
    os.kill(single.running["denzel"].pid, signal.SIGKILL)
    single.running["denzel"].wait(10)
    until(lambda: not single.processes("denzel"), within=10, what="every process of the worker to be gone")


def test_one_poisonous_request_among_a_hundred(shared: Deployment) -> None:
    tasks = [shared.submit(die=True) if number == 50 else shared.submit(count="good") for number in range(101)]
    poison = tasks.pop(50)
    assert [shared.ended(task, within=60).status for task in tasks] == ["SUCCESS"] * 100
    record = shared.ended(poison, within=60)
    assert record.status == "FAILURE"
    assert record.result == {"args": ["the worker died while running this task, 3 times"]}
    # Those that were through when the process died, and had not been told, have run once more.
    assert 100 <= shared.counted("good") < 100 + MAX_IN_TURN
    assert poison in [kept.task_id for kept in DeadLetters(shared.redis).read()]
    shared.until_all_are_ready()


def test_a_task_kept_aside_runs_again_when_it_is_replayed(shared: Deployment) -> None:
    task = shared.submit(die="until mended", unless="mended")
    assert shared.ended(task).status == "FAILURE"
    (shared.root / "mended").touch()
    assert DeadLetters(shared.redis).replay(task)
    assert shared.ended(task).status == "SUCCESS"


# Cancelled


def test_a_running_task_that_is_cancelled_is_stopped_and_its_process_replaced(shared: Deployment) -> None:
    shared.until_all_are_ready()
    before = len(shared.loads())
    task, other = shared.submit(sleep=300), shared.submit(sleep=2)
    until(lambda: running(shared, task) and running(shared, other), what="both to run")
    answer = cancel(shared, task)
    assert (answer.status_code, answer.json()) == (200, {"status": "REVOKED"})
    until(lambda: len(shared.loads()) == before + 1, within=60, what="the model in the new process")
    assert shared.status_of(task) == "REVOKED"
    assert shared.ended(other).status == "SUCCESS"
    assert shared.ended(shared.submit()).status == "SUCCESS"
    assert shared.redis.hlen(keys.OWNERS) == 0


def test_a_waiting_task_that_is_cancelled_never_runs(shared: Deployment) -> None:
    occupy(shared, until_file="first")
    waiting, behind = shared.submit(count="cancelled"), shared.submit()
    assert cancel(shared, waiting).json() == {"status": "REVOKED"}
    (shared.root / "first").touch()
    assert shared.ended(behind).status == "SUCCESS"
    assert shared.counted("cancelled") == 0
    assert shared.status_of(waiting) == "REVOKED"


def test_a_task_that_has_ended_can_not_be_cancelled(shared: Deployment) -> None:
    task = shared.submit()
    shared.ended(task)
    assert cancel(shared, task).status_code == 409
    assert shared.status_of(task) == "SUCCESS"


# Too long


def test_a_task_over_its_time_limit_fails_and_the_next_one_runs(single: Deployment) -> None:
    single.environ["TASK_TIME_LIMIT"] = "1.5"
    single.environ["WORKER_CONCURRENCY"] = "1"
    single.launch("denzel")
    slow, behind = single.submit(sleep=300), single.submit()
    assert single.ended(slow).result == {"args": ["the task took longer than TASK_TIME_LIMIT, 1.5 s"]}
    assert single.ended(behind).status == "SUCCESS"
    assert len(single.loads()) == 2
    assert single.redis.hlen(keys.OWNERS) == 0


def make_it_stay(deployment: Deployment) -> None:
    """Let the worker learn that tasks are quick: then a process stays at the queue."""
    for _ in range(40):
        assert deployment.ended(deployment.submit()).status == "SUCCESS"


def test_a_slow_task_at_the_queue_has_its_whole_time(single: Deployment) -> None:
    single.environ["TASK_TIME_LIMIT"] = "6"
    single.environ["WORKER_CONCURRENCY"] = "1"
    single.launch("denzel")
    make_it_stay(single)
    # Both together take longer than one job of the pool may.
    slow = [single.submit(sleep=4.5) for _ in range(2)]
    assert [single.ended(task).status for task in slow] == ["SUCCESS"] * 2
    assert len(single.loads()) == 1


def test_quick_tasks_do_not_wait_for_the_results_of_a_slow_one_behind_them(single: Deployment) -> None:
    single.environ["WORKER_CONCURRENCY"] = "1"
    single.launch("denzel")
    make_it_stay(single)
    # They gather while it runs, and go to the process together.
    first = single.submit(until="now")
    quick, slow = [single.submit() for _ in range(5)], single.submit(until="end")
    (single.root / "now").touch()
    until(lambda: all(single.status_of(task) == "SUCCESS" for task in [first, *quick]), what="the quick ones")
    assert not single.records.find(slow).ended  # type: ignore[union-attr]
    (single.root / "end").touch()
    assert single.ended(slow).status == "SUCCESS"


def test_a_task_at_the_queue_that_kills_its_process_ends_alone(single: Deployment) -> None:
    single.launch("denzel")
    make_it_stay(single)
    poison = single.submit(die=True)
    others = [single.submit() for _ in range(100)]
    assert all(single.ended(task).status == "SUCCESS" for task in others)
    assert single.ended(poison).result == {"args": ["the worker died while running this task, 3 times"]}
    assert single.redis.hlen(keys.OWNERS) == 0


def test_a_task_that_is_cancelled_at_the_queue_is_stopped(single: Deployment) -> None:
    single.launch("denzel", "api")
    make_it_stay(single)
    long = single.submit(sleep=300)
    until(lambda: running(single, long), what="the task to run")
    assert cancel(single, long).status_code == 200
    until(lambda: len(single.loads()) == 3, what="another process in place of the one that was ended")
    assert single.ended(single.submit()).status == "SUCCESS"


def test_cancelled_tasks_do_not_make_the_next_ones_wait_for_a_place(shared: Deployment) -> None:
    occupy(shared, until_file="second")
    tasks = [shared.submit() for _ in range(3)]
    places = [shared.place(task) for task in tasks]
    assert places == [1, 2, 3]
    cancel(shared, tasks[0])
    assert [shared.place(task) for task in tasks] == [None, 1, 2]
    (shared.root / "second").touch()
    assert [shared.ended(task).status for task in tasks] == ["REVOKED", "SUCCESS", "SUCCESS"]


# Full


def test_at_the_memory_limit_nothing_is_accepted_and_what_was_is_run(shared: Deployment) -> None:
    occupy(shared, until_file="full")
    tasks = [shared.submit(count="at-the-limit") for _ in range(5)]
    shared.redis.config_set("maxmemory", "1")
    try:
        refused = shared.predict({"do": True})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert refused.json()["description"] == "The queue's memory is full; nothing was accepted. Try again later."
        (shared.root / "full").touch()
        assert [shared.ended(task).status for task in tasks] == ["SUCCESS"] * 5
        os.kill(shared.loads()[-1], signal.SIGKILL)
        until(lambda: shared.worker()[0] == "UP", what="the worker to report")
    finally:
        shared.redis.config_set("maxmemory", "0")
    assert shared.counted("at-the-limit") == 5
    assert shared.predict({"do": True}, Prefer="wait=30").status_code == 200


# Four stories that take a minute or two each, told at the same time


@dataclass
class Stories:
    """A task of three claim time-outs; a worker that is stopped dead; a Redis that is away for a minute; and a receiver
    that is away for two, on a port that is kept for it.
    """

    long: Deployment
    long_task: str
    hung: Deployment
    hung_task: str
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
    uri = f"http://127.0.0.1:{port}/stash"
    callbacks = [accepted(away, callback_uri=uri) for _ in range(40)]
    until(lambda: all(away.redis.hget(keys.task(task), "callback_attempts") for task in callbacks), what="a first try")
    long_task = long.submit(sleep=3 * LEASE, count="runs")
    away_task = away.submit(sleep=MINUTE / 2, count="runs")
    until(lambda: running(long, long_task) and running(away, away_task), what="the tasks to run")
    os.kill(hung.running["denzel"].pid, signal.SIGSTOP)
    away.end("redis")
    away.exit_code("redis", within=10)
    return Stories(
        long=long,
        long_task=long_task,
        hung=hung,
        hung_task=hung.submit(),
        away=away,
        away_task=away_task,
        callbacks=callbacks,
        port=port,
        begun=time.monotonic(),
    )


def test_a_worker_consumes_again_after_redis_was_away_for_a_minute(stories: Stories) -> None:
    away = stories.endpoint_down
    until(lambda: time.monotonic() - stories.begun > MINUTE, within=MINUTE + 10, what="the minute to be over")
    away.start("redis")
    back = time.monotonic()
    task = until(lambda: accepted(away), what="the api to accept again")
    assert away.ended(task, within=60).status == "SUCCESS"
    assert time.monotonic() - back < 60
    assert away.ended(stories.away_task, within=60).status == "SUCCESS"
    assert away.counted("runs") == 1
    assert away.running["denzel"].poll() is None
    assert "the sidecar" not in away.output("denzel")


def accepted(deployment: Deployment, **order: str) -> str:
    answer = deployment.predict({"do": True, **order})
    return answer.json()["data"]["task_id"] if answer.status_code == 200 else ""


def test_a_task_of_three_claim_timeouts_runs_once(stories: Stories) -> None:
    assert stories.long.ended(stories.long_task, within=4 * LEASE).status == "SUCCESS"
    assert stories.long.counted("runs") == 1
    assert stories.long.redis.hlen(keys.OWNERS) == 0


def test_a_worker_that_hangs_is_ended_from_outside_and_its_tasks_run(stories: Stories) -> None:
    hung = stories.hung
    until(lambda: hung.running["denzel"].poll() is not None, within=2 * MINUTE, what="the worker to be ended")
    assert "tasks wait, and the worker has taken none for 60 s: ending it" in hung.output("denzel")
    hung.end_group("denzel")
    hung.start("denzel")  # as Docker and supervisord do
    assert hung.ended(stories.hung_task, within=60).status == "SUCCESS"


def test_a_receiver_that_was_away_for_two_minutes_gets_every_callback_once_it_is_back(stories: Stories) -> None:
    """Redis was away for one of them."""
    until(lambda: time.monotonic() - stories.begun > 2 * MINUTE, within=2 * MINUTE, what="two minutes to be over")
    with receiving(stories.port) as receiver:
        until(lambda: len(receiver.received) == len(stories.callbacks), within=MINUTE, what="every callback")
        reports = [kept(stories.endpoint_down, task) for task in stories.callbacks]
        until(lambda: not stories.endpoint_down.redis.exists(keys.UNDELIVERED), what="the deliveries on record")
    assert sorted(headers["webhook-id"] for _, headers, _ in receiver.received) == sorted(stories.callbacks)
    assert all(report["callback"]["attempts"] > 1 for report in reports)


def kept(deployment: Deployment, task_id: str) -> Any:
    return requests.get(deployment.url(f"/status/{task_id}"), timeout=30).json()
