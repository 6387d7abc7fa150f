"""lazy_events.py: events of the dashboard, queued until its state is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from celery import Celery
from flower.options import default_options
from prometheus_client import REGISTRY
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from app.serving.monitor.__main__ import Dashboard
from app.serving.monitor.lazy_events import MAX_COUNTED_AT_ONCE, LazyEvents

WORKER = "worker@here"
MAX_TASKS = 10


class Loop:
    """An event loop that runs callbacks at once, or after a while."""

    def __init__(self) -> None:
        self.is_busy = False
        self.waiting: list[Callable[[], None]] = []

    def add_callback(self, function: Callable[..., None], *arguments: Any) -> None:
        if self.is_busy:
            self.waiting.append(partial(function, *arguments))
        else:
            function(*arguments)


class EventSource:
    def __init__(self) -> None:
        self.loop = Loop()
        self.events = LazyEvents(Celery(set_as_current=False), self.loop, max_tasks_in_memory=MAX_TASKS)
        self._clock = 0

    def emit(self, kind: str, task_id: str = "", **fields: Any) -> None:
        self._clock += 1
        described = {"uuid": task_id, "name": "a-task", "args": "[1]"} if task_id else {}
        moment = 1_700_000_000.0 + self._clock
        event = {"type": kind, "hostname": WORKER, "timestamp": moment, "local_received": moment}
        self.events.on_event({**event, "clock": self._clock, "pid": 1, "utcoffset": 0, **described, **fields})

    @property
    def processed(self) -> int:
        """The number of tasks whose events are processed."""
        return len(self.events._state.tasks)


@pytest.fixture
def source() -> EventSource:
    return EventSource()


def counted(kind: str) -> float:
    labels = {"worker": WORKER, "type": kind, "task": "a-task"}
    return REGISTRY.get_sample_value("flower_events_total", labels) or 0


def timed() -> float:
    return REGISTRY.get_sample_value("flower_task_runtime_seconds_count", {"worker": WORKER, "task": "a-task"}) or 0


def test_a_final_event_is_processed_when_the_state_is_read(source: EventSource) -> None:
    before = counted("task-succeeded")
    source.emit("task-succeeded", "one", result="2", received=1.0, started=2.0, runtime=0.25)
    source.emit("task-failed", "two", exception="it broke", traceback="")
    assert source.processed == 0
    tasks = source.events.state.tasks
    assert (tasks["one"].state, tasks["one"].args, tasks["one"].runtime) == ("SUCCESS", "[1]", 0.25)
    assert (tasks["two"].state, tasks["two"].exception) == ("FAILURE", "it broke")
    assert counted("task-succeeded") == before + 1


def test_a_final_event_counts_as_a_processed_task_also_when_it_is_not_kept(source: EventSource) -> None:
    """Of tasks, the page of workers counts those that were received."""
    for number in range(MAX_TASKS + MAX_COUNTED_AT_ONCE + 5):
        source.emit("task-succeeded", f"task-{number}", result="2", runtime=0.25)
    source.emit("task-failed", "failed", exception="it broke", traceback="")
    counter = source.events.state.counter[WORKER]
    ended = MAX_TASKS + MAX_COUNTED_AT_ONCE + 6
    assert counter["task-received"] == counter["task-succeeded"] + counter["task-failed"] == ended


def test_the_metrics_include_queued_events(source: EventSource) -> None:
    async def fetch() -> str:
        server = HTTPServer(Dashboard(capp=Celery(set_as_current=False), options=default_options, events=source.events))
        listening, port = bind_unused_port()
        server.add_socket(listening)
        source.emit("task-succeeded", "one", name="metered", result="2", runtime=0.25)
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/metrics")
        server.stop()
        return answer.body.decode()

    assert f'flower_events_total{{task="metered",type="task-succeeded",worker="{WORKER}"}} 1.0' in asyncio.run(fetch())


def test_events_of_workers_and_of_running_tasks_are_processed_at_once(source: EventSource) -> None:
    source.emit("worker-online", freq=2)
    source.emit("task-started", "one")
    assert source.events._state.workers[WORKER].alive is not None
    assert source.events._state.tasks["one"].state == "STARTED"


def test_a_running_task_ends_with_its_final_event(source: EventSource) -> None:
    source.emit("task-started", "one")
    source.emit("task-succeeded", "one", result="2", runtime=1.5)
    assert source.events.state.tasks["one"].state == "SUCCESS"


def test_only_the_latest_tasks_are_kept_but_all_are_counted(source: EventSource) -> None:
    number = MAX_TASKS + MAX_COUNTED_AT_ONCE + 5
    before = counted("task-succeeded"), timed()
    for place in range(number):
        source.emit("task-succeeded", f"task-{place}", result="2", runtime=0.25)
    assert source.processed == 0
    state = source.events.state
    assert set(state.tasks) == {f"task-{place}" for place in range(number - MAX_TASKS, number)}
    assert state.counter[WORKER]["task-succeeded"] == number
    assert (counted("task-succeeded"), timed()) == (before[0] + number, before[1] + number)


def test_only_the_event_loop_takes_events_from_the_queue(source: EventSource) -> None:
    """The thread that receives them would race with it."""
    source.loop.is_busy = True
    number = MAX_TASKS + 2 * MAX_COUNTED_AT_ONCE
    for place in range(number):
        source.emit("task-succeeded", f"task-{place}")
    assert len(source.events._unread) == number
    source.events.read()
    for callback in source.loop.waiting:
        callback()
    assert source.events.state.counter[WORKER]["task-succeeded"] == number
