"""The sender as a process of its own: killed, stopped, or started with bad settings."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from standardwebhooks import Webhook
from support.callbacks import Scripted, Start, end, report, state
from support.paths import PROJECT
from support.redis_server import redis_server
from support.waiting import until
from support.whsec import SECRET

from app.serving.callbacks.egress import check_settings
from app.serving.settings import SettingError, Settings
from app.serving.store.connection import connect
from app.serving.store.tasks import CallbackReport, TaskStore


def test_a_callback_is_sent_again_when_its_sender_was_killed_in_flight(
    start_process: Start, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    receiver.hanging = True
    killed = start_process(CALLBACK_SECRET=SECRET)
    end(records, receiver.uri())
    until(lambda: receiver.received, what="the callback to be in flight")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    receiver.hanging = False
    receiver.released.set()
    assert report(records) == CallbackReport(state="PENDING")
    start_process(CALLBACK_SECRET=SECRET)
    until(lambda: state(records) == "DELIVERED", within=20, what="the next sender's attempt")
    assert receiver.ids == ["the-id", "the-id"]
    for headers, content in receiver.received:
        Webhook(SECRET).verify(content, headers)


def test_a_crash_between_result_and_callback_loses_nothing(
    start_process: Start, records: TaskStore, scripted: Scripted
) -> None:
    """No sender runs when the task ends; result and callback were recorded in one step."""
    receiver = scripted()
    end(records, receiver.uri())
    start_process()
    until(lambda: state(records) == "DELIVERED", what="the callback")


def test_a_sender_finishes_what_is_in_flight_on_sigterm_and_exits_with_0(
    start_process: Start, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    receiver.hanging = True
    process = start_process()
    end(records, receiver.uri(), task_id="through")
    until(lambda: receiver.received, what="the callback to be in flight")
    process.terminate()
    receiver.released.set()
    assert process.wait(10) == 0
    assert state(records, "through") == "DELIVERED"


def test_a_sender_exits_in_time_whatever_hangs(start_process: Start, records: TaskStore, scripted: Scripted) -> None:
    receiver = scripted()
    receiver.hanging = True
    process = start_process(CALLBACK_TIMEOUT="60")
    end(records, receiver.uri())
    until(lambda: receiver.received, what="the callback to be in flight")
    process.terminate()
    assert process.wait(20) == 0
    assert report(records) == CallbackReport(state="PENDING")


def test_a_sender_ignores_the_sigint_that_a_terminal_sends_to_all(
    start_process: Start, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    process = start_process()
    for task_id in ("before", "after"):
        end(records, receiver.uri(), task_id=task_id)
        until(lambda name=task_id: state(records, name) == "DELIVERED", what="the callback")  # type: ignore[misc]
        process.send_signal(signal.SIGINT)
    process.terminate()
    assert process.wait(10) == 0


def test_a_sender_ends_when_what_started_it_is_gone(redis_url: str) -> None:
    code = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], close_fds=False).pid, flush=True); input()"
    command = [sys.executable, "-c", code, sys.executable, "-m", "app.serving.callbacks"]
    pipe, output = os.pipe()
    options: dict[str, Any] = {"cwd": PROJECT, "pass_fds": [output], "text": True}
    environment = {**os.environ, "REDIS_URL": redis_url, "HEARTBEAT_FD": str(output)}
    with (
        os.fdopen(pipe, "rb", buffering=0) as beats,
        subprocess.Popen(command, **options, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent,
    ):
        os.close(output)
        assert parent.stdout is not None
        sender = psutil.Process(int(parent.stdout.readline()))
        assert beats.read(1) == b"."
        parent.kill()
        until(lambda: not sender.is_running(), within=5, what="the sender to end")


def test_a_sender_beats_while_redis_hangs_and_settles_once_it_is_back(
    start_process: Start, scripted: Scripted, tmp_path: Path
) -> None:
    receiver = scripted()
    receiver.hanging = True
    pipe, output = os.pipe()
    with redis_server(tmp_path) as url, connect(url) as client, os.fdopen(pipe, "rb", buffering=0) as beats:
        start_process(output, REDIS_URL=url, HEARTBEAT_FD=str(output))
        os.close(output)
        records = TaskStore(client)
        end(records, receiver.uri())
        until(lambda: receiver.received, what="the callback to be in flight")
        server = client.info()["process_id"]
        os.kill(server, signal.SIGSTOP)
        try:
            receiver.released.set()
            began = time.monotonic()
            for _ in range(6):
                assert beats.read(1) == b"."
            assert time.monotonic() - began < 10
        finally:
            os.kill(server, signal.SIGCONT)
        until(lambda: state(records) == "DELIVERED", what="the record")
    assert receiver.ids == ["the-id"]


def test_a_sender_does_not_beat_while_a_step_takes_too_long(start_process: Start, tmp_path: Path) -> None:
    """A step without Redis takes four seconds: the limit is lower here."""
    pipe, output = os.pipe()
    with redis_server(tmp_path) as url, connect(url) as client, os.fdopen(pipe, "rb", buffering=0) as beats:
        start_process(output, REDIS_URL=url, HEARTBEAT_FD=str(output), STEP_TIMEOUT="1.5")
        os.close(output)
        assert beats.read(1) == b"."
        server = client.info()["process_id"]
        os.kill(server, signal.SIGSTOP)

        def is_silent() -> bool:
            if select.select([beats], [], [], 2.0)[0]:
                assert beats.read(1) == b"."
                return False
            return True

        try:
            until(is_silent, what="two seconds without a beat")
        finally:
            os.kill(server, signal.SIGCONT)
        assert beats.read(1) == b"."


BAD_SECRET = ({"CALLBACK_SECRET": "secret"}, "CALLBACK_SECRET must be whsec_ and 24 to 64 bytes in base64, or empty")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        BAD_SECRET,
        ({"CALLBACK_ALLOW": "10.0.0.0/"}, "CALLBACK_ALLOW has '10.0.0.0/', which is no network"),
        ({"CALLBACK_DENY": "10.0.0.0/99"}, "CALLBACK_DENY has '10.0.0.0/99', which is no network"),
    ],
)
def test_a_worker_can_check_beforehand_that_the_sender_would_not_start(
    read_settings: Callable[..., Settings], environ: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(message)}$"):
        check_settings(read_settings(**environ))


def test_valid_settings_pass_the_check(read_settings: Callable[..., Settings]) -> None:
    check_settings(read_settings())
    check_settings(read_settings(CALLBACK_SECRET=SECRET, CALLBACK_ALLOW="*.example,10.0.0.0/8", CALLBACK_DENY="::1"))


@pytest.mark.parametrize(
    ("environ", "message"),
    [BAD_SECRET, ({"CALLBACK_TIMEOUT": "soon"}, "CALLBACK_TIMEOUT is 'soon'; it must be a number of 0.1 or more")],
)
def test_an_invalid_setting_ends_the_sender_with_one_line(
    start_process: Start, environ: dict[str, str], message: str
) -> None:
    process = start_process(**environ)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors.strip()) == (1, message)
