"""The sender as a process of its own, the sidecar: killed, stopped, or started with bad settings."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import pytest
from standardwebhooks import Webhook
from support.callbacks import Scripted, Start, end, report, state
from support.waiting import until
from support.whsec import SECRET

from app.serving.settings import SettingError, Settings
from app.serving.sidecar import __main__ as sidecar
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
        sidecar.check_settings(read_settings(**environ))


def test_valid_settings_pass_the_check(read_settings: Callable[..., Settings]) -> None:
    sidecar.check_settings(read_settings())
    sidecar.check_settings(
        read_settings(CALLBACK_SECRET=SECRET, CALLBACK_ALLOW="*.example,10.0.0.0/8", CALLBACK_DENY="::1")
    )


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
