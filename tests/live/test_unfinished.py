"""Unfinished work on real services: undelivered callbacks, waiting tasks, and tasks that kill their worker."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from doubles.receiver import Receiver, uri_for
from support.driving import DENZEL, Driven
from support.waiting import until


def listed_as(lab: Driven, task_id: str, *arguments: str) -> dict[str, Any]:
    """The entry of one task, empty when it is not listed."""
    return next((entry for entry in lab.listed(*arguments) if entry["task_id"] == task_id), {})


@contextmanager
def listening(lab: Driven, port: int, shown: Path) -> Iterator[None]:
    """`denzel listen` in a terminal of its own."""
    with shown.open("wb") as output:
        process = subprocess.Popen([DENZEL, "listen", "--port", str(port)], cwd=lab.root, stdout=output)
        try:
            until(shown.read_text, what="denzel listen")
            yield
        finally:
            process.terminate()
            process.wait()


def test_a_callback_that_nobody_took_is_listed_and_sent_again(lab: Driven, free_port: int, tmp_path: Path) -> None:
    uri = uri_for(lab.backend, free_port)
    task_id = lab.submit({"echo": "late", "callback_uri": uri})
    until(lambda: listed_as(lab, task_id, "callbacks").get("attempts"), what="a try")
    seen = listed_as(lab, task_id, "callbacks", "--pending")
    assert (seen["uri"], seen["state"], seen["last_status"]) == (uri, "PENDING", None)
    assert seen["last_error"]
    assert task_id in lab.denzel("callbacks")
    assert task_id not in lab.denzel("callbacks", "--failed")
    shown = tmp_path / "shown"
    with listening(lab, free_port, shown):
        assert "1 callback is sent again now." in lab.denzel("callbacks", "resend", task_id)
        until(lambda: f"/stash {task_id} signature good" in shown.read_text(), what="the callback")
        until(lambda: '"echo": "late"' in shown.read_text(), what="its body")
        # A try that was due anyway may have come before, and what was sent again be on its way.
        until(lambda: not listed_as(lab, task_id, "callbacks"), what="the callback to be delivered")


def test_a_failed_callback_is_listed_and_resent(lab: Driven, receiver: Receiver) -> None:
    receiver.status = 410
    task_id = lab.submit({"echo": "gone", "callback_uri": receiver.uri(lab.backend)})
    until(lambda: listed_as(lab, task_id, "callbacks", "--failed"), what="the callback to be given up")
    assert listed_as(lab, task_id, "callbacks")["last_status"] == 410
    receiver.status = 200
    assert "sent again now" in lab.denzel("callbacks", "resend", "--failed")
    until(lambda: len(receiver.received) == 2, what="the callback")
    until(lambda: not listed_as(lab, task_id, "callbacks"), what="the callback to be delivered")
    assert lab.denzel("callbacks", "resend", "--failed") == "No callbacks have failed.\n"


def test_an_unknown_id_is_named(lab: Driven) -> None:
    unknown = "7785759d-5fa3-4e20-b9fe-d51263b4b4ef"
    for command in (
        ["callbacks", "resend", unknown],
        ["tasks", "replay", unknown],
        ["tasks", "discard", "--yes", unknown],
    ):
        shown = lab.denzel(*command, code=1)
        assert unknown in shown
        assert "Hint: See w" in shown


def test_tasks_that_run_and_wait_are_listed_in_their_order(lab: Driven) -> None:
    with lab.occupied() as ids:
        ids += [lab.submit({}) for _ in range(2)]
        entries = lab.listed("tasks")
    running, waiting = entries[:2], entries[2:]
    assert {entry["task_id"] for entry in running} == set(ids[:2])
    assert all(entry["host"] and entry["deliveries"] == 1 for entry in running)
    assert [(entry["task_id"], entry["status"], entry["position"]) for entry in waiting] == [
        (ids[2], "PENDING", 1),
        (ids[3], "PENDING", 2),
    ]
    for task_id in ids:
        assert lab.ended(task_id)["status"] == "SUCCESS"
    assert lab.denzel("tasks") == "No tasks are running or waiting.\n"


def test_a_task_that_kills_its_worker_is_dead_lettered_and_can_be_replayed(lab: Driven) -> None:
    task_id = lab.submit({"die": True})
    assert lab.ended(task_id, within=120)["status"] == "FAILURE"
    seen = listed_as(lab, task_id, "tasks", "--quarantined")
    assert seen["deliveries"] == 3
    assert "died" in seen["reason"]
    with lab.occupied():
        assert "1 task is queued again." in lab.denzel("tasks", "replay", task_id)
        assert not listed_as(lab, task_id, "tasks", "--quarantined")
    assert lab.ended(task_id, within=120)["status"] == "FAILURE"
    assert listed_as(lab, task_id, "tasks", "--quarantined")


def test_a_dead_letter_can_be_discarded(lab: Driven) -> None:
    task_id = lab.submit({"die": True})
    assert lab.ended(task_id, within=120)["status"] == "FAILURE"
    assert "Nothing was discarded." in lab.denzel("tasks", "discard", task_id, code=1, stdin="n\n")
    assert listed_as(lab, task_id, "tasks", "--quarantined")
    assert lab.denzel("tasks", "discard", task_id, "--yes") == "1 task is discarded.\n"
    assert not listed_as(lab, task_id, "tasks", "--quarantined")
    assert lab.ended(task_id)["status"] == "FAILURE"
    assert f"Not in quarantine: {task_id}." in lab.denzel("tasks", "replay", task_id, code=1)
