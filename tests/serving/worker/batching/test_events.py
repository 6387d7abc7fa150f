"""events.py: events of tasks in Celery's form, as its own receiver reads them, and lines of the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from doubles.clock import Clock
from redis import Redis
from support.dashboard import dashboard
from support.redis_server import counted_commands
from support.waiting import until

from app.serving.errors import failure
from app.serving.json_values import json_text
from app.serving.store.messages import TASK_NAME, QueuedTask
from app.serving.store.tasks import FAILURE, SUCCESS, Completion
from app.serving.worker.batching.events import FLUSH_INTERVAL, MAX_RESULT_REPR, TaskEvents
from app.serving.worker.batching.runner import TaskResult


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def celery_app(make_celery: Any) -> Celery:
    return make_celery(lambda json_data: {}).app


@pytest.fixture
def events(celery_app: Celery, clock: Clock) -> TaskEvents:
    return TaskEvents(celery_app, "worker@iris", clock=clock)


@pytest.fixture
def received(celery_app: Celery, redis: Redis) -> Iterator[list[dict[str, Any]]]:
    """The events that a dashboard gets."""
    with dashboard(celery_app) as got:
        until(redis.pubsub_numpat, what="the dashboard to listen")
        yield got


def result(number: int, status: str = SUCCESS, text: str = "{}") -> TaskResult:
    task = QueuedTask(f"task-{number}", "", f"[{number}]", 900.0)
    return TaskResult(task, Completion(task.task_id, status, text), 901.0, 0.25)


def test_a_task_is_one_event_with_all_that_celery_tells_in_three(
    events: TaskEvents, received: list[dict[str, Any]]
) -> None:
    long = json.dumps({"x": "y" * 5000})
    events.ended([result(1, text=long), result(2, FAILURE, json_text(failure(KeyError("rows"))))])
    events.revoked([QueuedTask("task-3", "", "[3]", 900.0)])
    events.flush(is_idle=True)
    until(lambda: len(received) == 3, what="the events")
    good, bad, revoked = received
    known = {"name": TASK_NAME, "args": "[1]", "kwargs": "{}", "received": 900.0, "hostname": "worker@iris"}
    assert known.items() <= good.items()
    assert (good["type"], good["uuid"], good["started"], good["runtime"]) == ("task-succeeded", "task-1", 901.0, 0.25)
    assert good["result"] == long[:MAX_RESULT_REPR]
    assert (bad["type"], bad["exception"], bad["traceback"]) == ("task-failed", "KeyError: 'rows'", "")
    assert (revoked["type"], revoked["uuid"], revoked["terminated"]) == ("task-revoked", "task-3", False)


def test_the_events_of_many_tasks_are_few_messages(events: TaskEvents, redis: Redis) -> None:
    events.ended([result(0)])
    events.flush(is_idle=True)
    with counted_commands(redis) as commands:
        for number in range(100):
            events.ended([result(number)])
            events.flush()
        events.flush(is_idle=True)
    assert 1 <= len([command for command in commands if command != "ping"]) <= 4


def test_events_wait_for_others_unless_the_process_is_idle(
    events: TaskEvents, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    events.ended([result(1)])
    events.flush()
    assert caplog.messages == []
    clock.now += FLUSH_INTERVAL
    events.ended([result(2)])
    events.flush()
    assert caplog.messages == ["ended: task-1 SUCCESS in 0.250 s, task-2 SUCCESS in 0.250 s"]
    events.ended([result(3, FAILURE)])
    events.flush(is_idle=True)
    events.flush(is_idle=True)
    assert caplog.messages[1:] == ["ended: task-3 FAILURE in 0.250 s"]


def test_a_line_of_the_log_names_some_tasks(events: TaskEvents, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events.ended([result(number) for number in range(20)])
    events.flush(is_idle=True)
    assert [line.count("SUCCESS") for line in caplog.messages] == [16, 4]


def test_a_cancelled_task_is_shown_although_no_other_ends(
    events: TaskEvents, received: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    events.revoked([QueuedTask("a", "", "[1]", 900.0)])
    events.flush(is_idle=True)
    until(lambda: received, what="the event")
    assert [message for message in caplog.messages if message.startswith("ended")] == []


def test_events_that_cannot_be_sent_are_dropped_and_those_after_an_outage_are_sent(
    make_celery: Callable[..., Any], flaky: Any, received: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    app = make_celery(lambda json_data: {}).app
    app.conf.broker_url = flaky.url
    events = TaskEvents(app, "worker@iris")
    flaky.go_away()
    for number in range(3):
        events.ended([result(number)])
        events.flush(is_idle=True)
    assert "events could not be sent" in caplog.text
    flaky.come_back()

    def arrived() -> bool:
        events.ended([result(9)])
        events.flush(is_idle=True)
        return any(event["uuid"] == "task-9" for event in received)

    until(arrived, what="an event after the outage")
