"""node.py: the worker as a Celery node, asked by Celery's own clients, also while every process is busy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from support.dashboard import dashboard
from support.deployment import Deployment
from support.waiting import until

from app.serving.store import keys
from app.serving.store.messages import TASK_NAME

pytestmark = pytest.mark.local

NAME = "worker@iris"


@pytest.fixture(scope="module")
def client(shared: Deployment) -> Iterator[Celery]:
    with Celery("client", broker=shared.environ["REDIS_URL"], set_as_current=False) as app:
        yield app


@pytest.fixture
def busy(shared: Deployment) -> Iterator[list[str]]:
    """The tasks that occupy both processes during a test."""
    shared.until_all_are_ready()
    with shared.held() as order:
        begun = [shared.root / f"begun-{order['until'][-8:]}-{number}" for number in range(2)]
        tasks = [shared.enqueue(once=path.name, **order) for path in begun]
        until(lambda: all(path.exists() for path in begun), what="both processes to be busy")
        yield tasks
    for task in tasks:
        shared.ended(task)


def inspect(client: Celery, what: str) -> Any:
    """The worker's answer, as the dashboard asks for it."""
    answer = getattr(client.control.inspect([NAME], timeout=15), what)()[NAME]
    assert "secret@" not in json.dumps(answer)
    return answer


# ------------------------------------------------------------------ inspect


@pytest.mark.usefixtures("busy")
def test_a_worker_whose_processes_are_all_busy_answers(shared: Deployment, client: Celery) -> None:
    assert inspect(client, "ping") == {"ok": "pong"}
    stats = inspect(client, "stats")
    assert (stats["pool"]["max-concurrency"], len(stats["pool"]["processes"])) == (2, 2)
    assert set(stats["pool"]["processes"]) <= set(shared.processes("denzel"))
    assert TASK_NAME in inspect(client, "registered")
    assert inspect(client, "conf")["task_default_queue"] == keys.QUEUE
    for nothing in ("reserved", "scheduled", "active_queues"):
        assert inspect(client, nothing) == [], nothing
    assert "Control command error" not in shared.output("denzel")


def test_running_tasks_are_shown_with_their_arguments_and_processes(
    shared: Deployment, client: Celery, busy: list[str]
) -> None:
    active = {task["id"]: task for task in inspect(client, "active")}
    assert set(active) == set(busy)
    for task_id in busy:
        shown = active[task_id]
        assert (shown["name"], shown["kwargs"], "'once': 'begun-" in shown["args"]) == (TASK_NAME, "{}", True)
        assert shown["worker_pid"] in shared.processes("denzel")


def test_ended_tasks_are_counted(shared: Deployment, client: Celery) -> None:
    for _ in range(5):
        shared.ended(shared.enqueue())

    def counted() -> tuple[int, int]:
        logged = re.findall(r"(?:SUCCESS|FAILURE) in \d", shared.output("denzel"))
        return inspect(client, "stats")["total"].get(TASK_NAME, 0), len(logged)

    # In the log are those of processes that have been replaced, too.
    until(lambda: counted()[0] == counted()[1] >= 5, within=15, what="the counts")


def test_a_message_of_a_plain_celery_client_is_run(shared: Deployment, client: Celery) -> None:
    sent = client.send_task(TASK_NAME, ({},), queue=keys.QUEUE)
    assert shared.ended(sent.id).status == "SUCCESS"


# ------------------------------------------------------------------ control


def test_a_waiting_task_is_revoked_and_a_running_one_is_not(
    shared: Deployment, client: Celery, busy: list[str]
) -> None:
    waiting = shared.enqueue(count="revoked")
    (answer,) = client.control.revoke([waiting, busy[0]], destination=[NAME], reply=True, timeout=15)
    assert answer == {NAME: {"ok": f"cancelled: {waiting}"}}
    assert (shared.status_of(waiting), shared.status_of(busy[0])) == ("REVOKED", "STARTED")
    assert shared.counted("revoked") == 0
    (answer,) = client.control.revoke("no-such-task", destination=[NAME], reply=True, timeout=15)
    assert answer == {NAME: {"ok": "none of these tasks waits; celery control terminate KILL ends one that runs"}}


def test_a_running_task_is_revoked_with_its_process_where_that_is_asked_for(
    shared: Deployment, client: Celery, busy: list[str]
) -> None:
    before = {task["id"]: task["worker_pid"] for task in inspect(client, "active")}
    client.control.revoke(busy[0], terminate=True, destination=[NAME], reply=True, timeout=15)
    until(lambda: before[busy[0]] not in shared.processes("denzel"), what="its process to be killed")
    # As `celery control terminate` asks.
    asked = {"signal": "SIGKILL", "task_id": [busy[1]]}
    (answer,) = client.control.broadcast("terminate", asked, destination=[NAME], reply=True, timeout=15)
    assert answer == {NAME: {"ok": f"cancelled: {busy[1]}"}}
    until(lambda: before[busy[1]] not in shared.processes("denzel"), what="the other one to be killed")
    assert [shared.status_of(task) for task in busy] == ["REVOKED"] * 2
    assert shared.ended(shared.enqueue()).status == "SUCCESS"


# ------------------------------------------------------------------ events


def kinds(events: list[dict[str, Any]], task: str) -> list[str]:
    return [event["type"] for event in events if event.get("uuid") == task]


def test_the_dashboard_sees_what_runs_long_and_how_all_ends(shared: Deployment, client: Celery) -> None:
    with dashboard(client) as events:
        with shared.held() as order:
            long = shared.enqueue(**order, echo="long")
            until(lambda: kinds(events, long) == ["task-started"], what="the long task as started")
            (started,) = (event for event in events if event.get("uuid") == long)
            assert (started["name"], "'echo': 'long'" in started["args"], started["hostname"]) == (
                TASK_NAME,
                True,
                NAME,
            )
        until(lambda: kinds(events, long) == ["task-started", "task-succeeded"], what="its end")
        quick, poison = shared.enqueue(), shared.enqueue(die=True)
        until(lambda: kinds(events, quick) == ["task-succeeded"], what="the end of a quick one")
        until(lambda: kinds(events, poison)[-1:] == ["task-failed"], what="the dead letter")
        running = shared.enqueue(sleep=300)
        until(lambda: kinds(events, running) == ["task-started"], what="another one as started")
        shared.records.cancel(running, ttl=60)
        until(lambda: kinds(events, running)[-1:] == ["task-revoked"], what="its end")
        until(lambda: any(event["type"] == "worker-heartbeat" for event in events), what="a heartbeat")
    beats = [event for event in events if event["type"] == "worker-heartbeat"]
    assert beats[-1]["processed"] > 0


# ------------------------------------------------------------------ life cycle


def test_a_worker_that_is_shut_down_ends_its_tasks_and_is_started_again(shared: Deployment, client: Celery) -> None:
    shared.until_all_are_ready()
    before = shared.main_process()
    with shared.held() as order:
        running = shared.enqueue(once="begun-before-the-shutdown", **order)
        until((shared.root / "begun-before-the-shutdown").exists, what="the task to run")
        client.control.shutdown(destination=[NAME])
        until(lambda: "Got shutdown from remote" in shared.output("denzel"), what="the shutdown")
        assert shared.status_of(running) == "STARTED"
    assert shared.ended(running).status == "SUCCESS"
    assert shared.redis.hget(keys.task(running), "deliveries") == "1"
    until(lambda: shared.main_process() not in (0, before), what="the next worker")
    assert shared.ended(shared.enqueue()).status == "SUCCESS"


def test_a_shutdown_waits_for_a_task_no_longer_than_stop_timeout(shared: Deployment, client: Celery) -> None:
    shared.until_all_are_ready()
    before = shared.main_process()
    with shared.held() as order:
        running = shared.enqueue(once="begun-before-the-deadline", **order)
        until((shared.root / "begun-before-the-deadline").exists, what="the task to run")
        client.control.shutdown(destination=[NAME])
        until(lambda: shared.main_process() not in (0, before), within=30, what="the next worker")
    assert shared.ended(running).status == "SUCCESS"
    assert shared.redis.hget(keys.task(running), "deliveries") == "1"
