"""The bench on real services: its measurements, and its cleanup."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from doubles.receiver import Receiver
from support.driving import DENZEL, Driven
from support.waiting import until


def bench(lab: Driven, *options: str) -> dict[str, Any]:
    printed = lab.denzel("bench", *options, "--json")
    figures: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return figures


def requests_file(folder: Path, *requests: dict[str, Any]) -> str:
    path = folder / "requests.jsonl"
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return str(path)


def is_clean(lab: Driven) -> bool:
    """True when no task is unfinished, and no callback."""
    return lab.listed("tasks") == lab.listed("callbacks") == []


def test_requests_come_through_to_their_callbacks(lab: Driven, tmp_path: Path) -> None:
    path = requests_file(tmp_path, {"sleep": 0.05}, {"sleep": 0.05, "echo": 2})
    figures = bench(lab, "--clients", "4", "--seconds", "3", "--file", path)
    assert figures["mode"] == "async"
    assert figures["sent"] == figures["accepted"] == figures["completed"] > 20
    assert (figures["errors"], figures["cancelled"], figures["lost_sight"]) == ([], 0, 0)
    assert 0 < figures["accept"]["p50"] < figures["end_to_end"]["p50"] < 3
    assert set(figures["processors"]["services"]) == {"api", "denzel", "monitor", "redis"}
    assert figures["processors"]["services"]["denzel"] > 0.01
    assert len(figures["queue"]) >= 2
    until(lambda: is_clean(lab), what="the last callback to be noted")


def test_a_synchronous_bench_at_fixed_times(lab: Driven, tmp_path: Path) -> None:
    figures = bench(lab, "--sync", "--rate", "20", "--seconds", "2", "--file", requests_file(tmp_path, {"echo": 1}))
    assert (figures["mode"], figures["sent"], figures["completed"], figures["errors"]) == ("sync", 40, 40, [])
    assert is_clean(lab)


def test_work_that_the_project_cannot_do_is_cancelled_and_no_other(
    lab: Driven, receiver: Receiver, tmp_path: Path
) -> None:
    path = requests_file(tmp_path, {"sleep": 0.5, "echo": 1})
    began = time.monotonic()
    with subprocess.Popen(
        [DENZEL, "bench", "--rate", "50", "--seconds", "600", "--file", path, "--json"],
        cwd=lab.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: len(lab.listed("tasks")) > 20, within=60, what="a queue")
        mine = lab.submit({"echo": 7, "callback_uri": receiver.uri(lab.backend)})
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    figures = json.loads(printed.splitlines()[-1])
    assert figures["interrupted"]
    assert figures["seconds"] < time.monotonic() - began
    assert figures["cancelled"] > 10
    assert figures["lost_sight"] == 0
    assert figures["queue"][-1]["tasks"] + figures["queue"][-1]["taken"] > 10
    assert lab.ended(mine)["status"] == "SUCCESS"
    until(lambda: is_clean(lab), what="the last callback to be noted")


@pytest.mark.parametrize(
    ("request_body", "options"),
    [
        ({"verify for": 3, "sleep": 600}, []),
        ({"sleep": 600}, []),
        ({"sleep": 600}, ["--sync"]),
        ({"sleep": 600, "callback_uri": "http://elsewhere.example/"}, ["--sync"]),
    ],
    ids=["not accepted yet", "running", "waiting for the result", "waiting for the result, with a callback"],
)
def test_ctrl_c_in_the_first_request_leaves_no_task_and_no_callback(
    lab: Driven, tmp_path: Path, request_body: dict[str, Any], options: list[str]
) -> None:
    with subprocess.Popen(
        [DENZEL, "bench", "--seconds", "600", "--file", requests_file(tmp_path, request_body), *options],
        cwd=lab.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "Sending a first request ...\n"
        if "verify for" not in request_body:
            until(lambda: lab.listed("tasks") != [], what="the first task")
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1, printed
    assert "Cancelling 1 task that has not ended ..." in printed
    assert "Interrupted." in printed
    until(lambda: is_clean(lab), within=10, what="the callback to be noted")
