"""Streams of events from real services: processes that die, an api that is killed, and nginx in between."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from support.command import tool
from support.deployment import Deployment
from support.ports import find_free_port
from support.waiting import until

from denzel.watch import AWAY, TaskEvent, parse, watch

pytestmark = pytest.mark.local


class Reader:
    """Follows a task in a thread, as `denzel watch` does."""

    def __init__(self, deployment: Deployment, task_id: str, port: int = 0) -> None:
        self.events: list[TaskEvent] = []
        self._following = watch(("127.0.0.1", port or deployment.api_port), task_id)
        self._thread = threading.Thread(target=lambda: self.events.extend(self._following), daemon=True)
        self._thread.start()

    def until(self, name: str) -> None:
        until(lambda: name in self.names, what=f"{name} behind {self.names}")

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), self.names

    @property
    def names(self) -> list[str]:
        """The events, but for progress."""
        return [event.name for event in self.events if event.name not in ("progress", "waiting")]

    @property
    def outputs(self) -> list[Any]:
        return [event.data for event in self.events if event.name == "output"]

    @property
    def end(self) -> dict[str, Any]:
        last = self.events[-1]
        assert last.name == "ended"
        found: dict[str, Any] = last.data
        return found


def test_a_generator_is_followed_to_its_result(shared: Deployment) -> None:
    task_id = shared.submit({"yield": 5, "pause": 0.05})
    reader = Reader(shared, task_id)
    reader.join()
    assert reader.names == ["started", *["output"] * 5, "ended"]
    assert reader.outputs == [0, 1, 2, 3, 4]
    assert reader.end["result"] == {"output": [0, 1, 2, 3, 4]}
    assert reader.end["progress"] == {"fraction": 1.0, "message": "number 5"}
    assert shared.post({"yield": 3}, prefer="wait=30").json() == {"output": [0, 1, 2]}


def test_output_arrives_while_the_task_runs(shared: Deployment) -> None:
    with shared.held() as order:
        reader = Reader(shared, shared.submit({"yield": 4, **order}))
        until(lambda: reader.outputs == [0, 1], what="what was yielded so far")
    reader.join()
    assert reader.outputs == [0, 1, 2, 3]


def test_the_death_of_the_process_voids_the_output(shared: Deployment) -> None:
    reader = Reader(shared, shared.submit({"yield": 4, "pause": 0.1, "die": True, "unless": uuid.uuid4().hex}))
    reader.join()
    assert reader.names == [
        *("started", "output", "output", "restarted", "started", "output", "output", "output", "output", "ended")
    ]
    assert [event.data["delivery"] for event in reader.events if event.name == "started"] == [1, 2]
    assert reader.end["result"] == {"output": [0, 1, 2, 3]}


def test_a_cancelled_generator_stops_and_its_stream_ends(shared: Deployment) -> None:
    with shared.held() as order:
        task_id = shared.submit({"yield": 4, **order})
        reader = Reader(shared, task_id)
        reader.until("output")
        shared.cancel(task_id)
        reader.join()
    assert reader.end["status"] == "REVOKED"
    assert reader.outputs == [0, 1]
    shared.until_all_are_ready()


def test_a_reader_outlasts_the_death_of_the_api(shared: Deployment) -> None:
    with shared.held() as order:
        reader = Reader(shared, shared.submit({"yield": 4, **order}))
        until(lambda: reader.outputs == [0, 1], what="what was yielded so far")
        shared.kill("api")
        reader.until(AWAY)
        shared.start("api")
        until(lambda: shared.healthy("api"), within=60, what="the api to be back")
    reader.join()
    assert reader.outputs == [0, 1, 2, 3]
    assert [name for name in reader.names if name != AWAY] == ["started", *["output"] * 4, "ended"]


def test_an_api_that_is_told_to_stop_ends_its_streams_at_once(shared: Deployment) -> None:
    with shared.held() as order:
        reader = Reader(shared, shared.submit({"yield": 2, **order}))
        reader.until("output")
        began = time.monotonic()
        shared.running["api"].send_signal(signal.SIGTERM)
        assert shared.exit_code("api", within=20) == 0
        assert time.monotonic() - began < 5
        shared.start("api")
        until(lambda: shared.healthy("api"), within=60, what="the api to be back")
    reader.join()
    assert reader.outputs == [0, 1]


@contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[int]:
    """nginx as Debian has it, with proxy buffering on, on a port of its own."""
    port = find_free_port()
    config = folder / "nginx.conf"
    config.write_text(f"""
        pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off; master_process off;
        events {{}}
        http {{
            access_log off; proxy_buffering on; proxy_temp_path {folder}/proxy; client_body_temp_path {folder}/body;
            fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
            server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}; }} }}
        }}
    """)
    process = subprocess.Popen([tool("nginx"), "-c", str(config), "-p", str(folder)])
    try:
        until(lambda: answers(port), what="nginx to answer")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health/live", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_nginx_passes_events_on_as_they_come(shared: Deployment, tmp_path: Path) -> None:
    with nginx(tmp_path, shared.api_port) as port, shared.held() as order:
        reader = Reader(shared, shared.submit({"yield": 4, **order}), port)
        until(lambda: reader.outputs == [0, 1], what="events, while the task runs on")
        answer = requests.post(
            f"http://127.0.0.1:{port}/predict",
            json={"yield": 2, "until": order["until"]},
            headers={"Accept": "text/event-stream"},
            stream=True,
            timeout=30,
        )
        events = parse(line + b"\n" for line in answer.iter_lines(chunk_size=1))
        assert next(event for event in events if event.name == "output").data == 0
        Path(shared.root, order["until"]).touch()
        reader.join()
        assert [event.name for event in events][-1] == "ended"
    assert reader.outputs == [0, 1, 2, 3]
