"""Promises on an accepted task, on both backends: requests that kill, and endpoints that are down."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from doubles.receiver import Receiver
from standardwebhooks import Webhook
from support.driving import Driven, Render, docker
from support.ports import find_free_port
from support.waiting import until

from app.serving.worker.batching.sizing import MAX_IN_TURN
from denzel.project import dotenv

#: The error of a request that kills its process.
DIED = {"type": "WorkerDied", "message": "the worker died while running this task, 3 times"}


def submit_among_good_ones(lab: Driven, bad: dict[str, Any], *, name: str = "good") -> tuple[list[str], str]:
    """The ids of a hundred good tasks, and of the bad one in their midst."""
    bodies: list[dict[str, Any]] = [{"echo": number, "name": name} for number in range(100)]
    bodies.insert(50, bad)
    tasks = [lab.submit(body) for body in bodies]
    return tasks, tasks.pop(50)


def test_a_request_that_kills_its_process_fails_after_three_deliveries_and_alone(lab: Driven) -> None:
    name = f"good-{secrets.token_hex(4)}"
    good, poison = submit_among_good_ones(lab, {"die": True}, name=name)
    ended = lab.ended(poison, within=120)
    assert (ended["status"], ended["error"]) == ("FAILURE", DIED)
    assert [lab.ended(task)["result"]["echo"] for task in good] == list(range(100))
    # Those that had ended when the process died, and were not on record yet, have run once more.
    assert 100 <= lab.log.count(name) < 100 + MAX_IN_TURN
    kept = lab.listed("tasks", "--quarantined")
    assert [task["deliveries"] for task in kept if task["task_id"] == poison] == [3]


@pytest.mark.docker
def test_a_request_that_takes_all_memory_fails_after_three_deliveries_and_alone(render: Render) -> None:
    lab = render("docker")
    dotenv.change(lab.root / ".env", {"WORKER_MEMORY_MB": "400"})
    lab.launch()
    good, poison = submit_among_good_ones(lab, {"allocate": 2000})
    assert lab.ended(poison, within=180)["error"] == DIED
    assert [lab.ended(task, within=120)["result"]["echo"] for task in good] == list(range(100))
    until(lab.is_ready, within=60, what="the worker to be up")


def test_a_cancelled_task_is_stopped_its_process_replaced_and_no_other_disturbed(lab: Driven) -> None:
    loaded = loads(lab)
    with lab.held() as order:
        other, cancelled = lab.submit({**order, "echo": "undisturbed"}), lab.submit({"sleep": 300})
        waiting = lab.submit({"echo": "waited"})
        until(lambda: [lab.task(task)["status"] for task in (other, cancelled)] == ["STARTED"] * 2, what="both to run")
        # It may have left the queue with the others, and come back.
        until(lambda: lab.task(waiting).get("position") == 1, within=10, what="the third to wait in the queue")
        answer = lab.cancel(cancelled)
        assert (answer.status_code, answer.json()) == (200, {"status": "REVOKED"})
        assert lab.ended(waiting)["result"]["echo"] == "waited"
    assert lab.ended(other)["result"]["echo"] == "undisturbed"
    assert lab.task(cancelled)["status"] == "REVOKED"
    until(lambda: loads(lab) == loaded + 1, what="the model in the process that came for the one that was ended")
    assert lab.listed("tasks") == []


def loads(lab: Driven) -> int:
    """The times that the worker has loaded its model."""
    return lab.log.count("model loaded")


def test_callbacks_are_signed_with_the_projects_secret(lab: Driven, receiver: Receiver) -> None:
    lab.submit({"echo": "signed", "callback_uri": receiver.uri(lab.backend)})
    until(lambda: receiver.received, what="the callback")
    (received,) = receiver.received
    secret = dotenv.read(lab.root / ".env")["CALLBACK_SECRET"]
    assert Webhook(secret).verify(received.content, received.headers) == received.body


@pytest.mark.slow
def test_callbacks_come_within_a_minute_when_the_process_that_sends_them_hangs(lab: Driven, receiver: Receiver) -> None:
    (sender,) = [one for one in processes(lab) if "app.serving.callbacks" in one.cmdline()]
    sender.suspend()
    task = lab.submit({"echo": "late", "callback_uri": receiver.uri(lab.backend)})
    until(lambda: receiver.received, within=60, what="the callback")
    assert receiver.ids == [task]
    log = lab.denzel("logs", "--service", "denzel")
    assert "the sender hangs, as it gives no heartbeat: killing it" in log
    assert "the sender was ended by SIGKILL; starting it again in 1 s" in log


def processes(lab: Driven) -> list[psutil.Process]:
    """The processes of the service `denzel`."""
    return psutil.Process(lab.pid("denzel")).children(recursive=True)


def test_two_requests_with_one_key_are_one_task(lab: Driven) -> None:
    key = {"idempotency_key": f"key-{find_free_port()}"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: lab.post({"echo": "once"}, **key), range(8)))
    assert len({answer.json()["data"]["task_id"] for answer in answers}) == 1
    assert lab.post({"echo": "other"}, **key).status_code == 422


def test_no_callback_goes_to_the_project_itself(lab: Driven) -> None:
    port = dotenv.read(lab.root / ".env")["API_PORT"]
    host = "host.docker.internal" if lab.backend == "docker" else "localhost"
    answer = lab.post({"callback_uri": f"http://{host}:{port}/predict"})
    assert answer.status_code == 400
    assert answer.json()["description"] == f"callback_uri must not lead to {host}:{port}, a service of this project"


@pytest.mark.docker
@pytest.mark.parametrize("shared", ["docker"], indirect=True)
def test_no_callback_goes_to_the_published_api_through_the_gateway(lab: Driven) -> None:
    values = dotenv.read(lab.root / ".env")
    network = f"{values['COMPOSE_PROJECT_NAME']}_default"
    (described,) = json.loads(docker("network", "inspect", network))
    port, gateway = values["API_PORT"], described["IPAM"]["Config"][0]["Gateway"]
    answer = lab.post({"callback_uri": f"http://{gateway}:{port}/predict"})
    assert answer.status_code == 400
    assert f"{gateway}, port {port}, a service of this project" in answer.json()["description"]


@pytest.mark.docker
@pytest.mark.parametrize("shared", ["docker"], indirect=True)
@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0177.0.0.1", "[::1]", "x@127.0.0.1", "169.254.169.254"])
def test_containers_call_back_to_no_address_of_their_own(lab: Driven, host: str) -> None:
    answer = lab.post({"callback_uri": f"http://{host}:8000/"})
    assert (answer.status_code, answer.json()["title"]) == (400, "Bad input format")
