"""Project and data of an earlier release under this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doubles.receiver import Receiver
from support.driving import Render
from support.waiting import until

pytestmark = pytest.mark.local


def test_an_earlier_project_runs_with_its_own_code(render: Render, earlier: Path, receiver: Receiver) -> None:
    lab = render("local", earlier / "project")
    lab.launch()
    assert "Using worker: app.server.Worker" in lab.denzel("logs", "--service", "api")
    receiver.status = 410
    task = lab.submit({"echo": 1, "callback_uri": receiver.uri()})
    until(lambda: lab.listed("callbacks", "--failed"), what="the callback to be given up")
    receiver.status = 200
    assert "1 callback is sent again now." in lab.denzel("callbacks", "resend", task)
    until(lambda: not lab.listed("callbacks"), what="the callback to be delivered")
    poison = lab.submit({"die": True})
    assert lab.ended(poison)["status"] == "FAILURE"
    assert [entry["task_id"] for entry in lab.listed("tasks", "--quarantined")] == [poison]
    with lab.occupied() as running:
        assert "1 task is queued again." in lab.denzel("tasks", "replay", poison)
        assert {entry["task_id"] for entry in lab.listed("tasks")} == {*running, poison}
    assert lab.ended(poison)["status"] == "FAILURE"
    assert lab.denzel("tasks", "discard", poison, "--yes") == "1 task is discarded.\n"
    assert "recovered in" in lab.denzel("drill", "--yes", "--kill", "worker", "--tasks", "9")
    assert "Bottleneck" in lab.denzel("bench", "--seconds", "1")
    lab.denzel("restart")
    assert lab.task(task)["result"]["echo"] == 1
    lab.denzel("shutdown", "--purge", "--yes")
    assert "not launched" in lab.denzel("status", code=1)


def test_the_data_of_an_earlier_release_survive_a_launch(render: Render, earlier: Path, receiver: Receiver) -> None:
    lab = render("local")
    tasks: dict[str, str] = json.loads((earlier / "tasks.json").read_text())
    names = {task: name for name, task in tasks.items()}
    data = (earlier / "appendonly.aof").read_bytes().replace(b"40404", b"%d" % receiver.server_port)
    (lab.root / ".denzel" / "redis").mkdir(parents=True)
    (lab.root / ".denzel" / "redis" / "appendonly.aof").write_bytes(data)
    # What the task waits for that the dead worker had.
    (lab.root / "go").touch()
    lab.launch()
    unfinished = [name for name in tasks if name == "taken" or name.startswith("waiting")]
    assert [lab.ended(tasks[name])["status"] for name in unfinished] == ["SUCCESS"] * 6
    echoes = [lab.task(tasks[name])["result"]["echo"] for name in unfinished]
    assert echoes == ["taken", "waiting 0", "waiting 1", "waiting 2", "called back", "keyed"]

    assert lab.task(tasks["success"])["result"]["echo"] == "success"
    assert lab.task(tasks["failure"]) == {"status": "FAILURE", "result": {"args": ["no such flower"]}}
    assert lab.task(tasks["revoked"]) == {"status": "REVOKED", "result": {"args": ["cancelled"]}}
    assert lab.task(tasks["delivered"])["callback"]["state"] == "DELIVERED"
    for name, key, body in (("success", "ended", "success"), ("waiting, with a key", "waiting", "keyed")):
        again = lab.post({"echo": body}, idempotency_key=key)
        assert again.json()["data"]["task_id"] == tasks[name]

    def called_back() -> list[str]:
        return sorted(names[task] for task in receiver.ids)

    until(lambda: len(receiver.received) == 3, what="the callbacks")
    assert called_back() == ["pending", "taken", "waiting, with a callback"]
    until(lambda: len(lab.listed("callbacks")) == 1, what="the callbacks to be delivered")
    assert [names[entry["task_id"]] for entry in lab.listed("callbacks", "--failed")] == ["given up"]
    lab.denzel("callbacks", "resend", "--failed")
    until(lambda: "given up" in called_back(), what="the callback that was given up")

    assert [names[entry["task_id"]] for entry in lab.listed("tasks", "--quarantined")] == ["quarantined"]
    lab.denzel("tasks", "replay", tasks["quarantined"])
    # The pipeline that it killed has been mended.
    assert lab.ended(tasks["quarantined"])["result"]["echo"] == "fragile"
    assert (lab.listed("tasks"), lab.listed("tasks", "--quarantined")) == ([], [])
