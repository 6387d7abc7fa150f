"""lazy_events.py: what the dashboard hears, and when it reads that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
MOST = 10


class Loop:
    """An event loop that does at once what it is told."""

    def add_callback(self, function: Callable[..., None], *arguments: Any) -> None:
        function(*arguments)


class Heard:
    def __init__(self) -> None:
        self.events = LazyEvents(Celery(set_as_current=False), Loop(), max_tasks_in_memory=MOST)
        self._clock = 0

    def hear(self, kind: str, task_id: str = "", **fields: Any) -> None:
        self._clock += 1
        described = {"uuid": task_id, "name": "a-task", "args": "[1]"} if task_id else {}
        moment = 1_700_000_000.0 + self._clock
        event = {"type": kind, "hostname": WORKER, "timestamp": moment, "local_received": moment}
        self.events.on_event({**event, "clock": self._clock, "pid": 1, "utcoffset": 0, **described, **fields})

    @property
    def read(self) -> int:
        """How many tasks were read by now."""
        return len(self.events._state.tasks)


@pytest.fixture
def heard() -> Heard:
    return Heard()


def counted(kind: str) -> float:
    labels = {"worker": WORKER, "type": kind, "task": "a-task"}
    return REGISTRY.get_sample_value("flower_events_total", labels) or 0


def timed() -> float:
    return REGISTRY.get_sample_value("flower_task_runtime_seconds_count", {"worker": WORKER, "task": "a-task"}) or 0


def test_a_task_that_has_ended_is_read_when_somebody_looks(heard: Heard) -> None:
    before = counted("task-succeeded")
    heard.hear("task-succeeded", "one", result="2", received=1.0, started=2.0, runtime=0.25)
    heard.hear("task-failed", "two", exception="it broke", traceback="")
    assert heard.read == 0
    tasks = heard.events.state.tasks
    assert (tasks["one"].state, tasks["one"].args, tasks["one"].runtime) == ("SUCCESS", "[1]", 0.25)
    assert (tasks["two"].state, tasks["two"].exception) == ("FAILURE", "it broke")
    assert counted("task-succeeded") == before + 1


def test_the_metrics_count_what_nobody_has_looked_at(heard: Heard) -> None:
    async def fetch() -> str:
        server = HTTPServer(Dashboard(capp=Celery(set_as_current=False), options=default_options, events=heard.events))
        listening, port = bind_unused_port()
        server.add_socket(listening)
        heard.hear("task-succeeded", "one", name="metered", result="2", runtime=0.25)
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/metrics")
        server.stop()
        return answer.body.decode()

    assert f'flower_events_total{{task="metered",type="task-succeeded",worker="{WORKER}"}} 1.0' in asyncio.run(fetch())


def test_a_worker_and_a_task_that_runs_are_read_at_once(heard: Heard) -> None:
    heard.hear("worker-online", freq=2)
    heard.hear("task-started", "one")
    assert heard.events._state.workers[WORKER].alive is not None
    assert heard.events._state.tasks["one"].state == "STARTED"


def test_what_runs_ends_when_that_is_read(heard: Heard) -> None:
    heard.hear("task-started", "one")
    heard.hear("task-succeeded", "one", result="2", runtime=1.5)
    assert heard.events.state.tasks["one"].state == "SUCCESS"


def test_of_more_tasks_than_are_kept_the_latest_are_shown_and_all_are_counted(heard: Heard) -> None:
    number = MOST + MAX_COUNTED_AT_ONCE + 5
    before = counted("task-succeeded"), timed()
    for place in range(number):
        heard.hear("task-succeeded", f"task-{place}", result="2", runtime=0.25)
    assert heard.read == 0
    state = heard.events.state
    assert set(state.tasks) == {f"task-{place}" for place in range(number - MOST, number)}
    assert state.counter[WORKER]["task-succeeded"] == number
    assert (counted("task-succeeded"), timed()) == (before[0] + number, before[1] + number)
