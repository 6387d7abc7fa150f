"""Tasks on real services: accepted, run, answered, called back, watched."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import requests
from doubles.receiver import Receiver
from support.driving import Driven
from support.waiting import until


def test_a_task_is_accepted_run_stored_and_called_back(lab: Driven, receiver: Receiver) -> None:
    answer = lab.post({"echo": "hello", "callback_uri": receiver.uri(lab.backend)})
    task_id = answer.json()["data"]["task_id"]
    assert answer.json() == {"status": "success", "data": {"task_id": task_id}}
    assert answer.headers["Location"] == f"/status/{task_id}"
    until(lambda: receiver.received, what="the callback")
    headers, body = receiver.received[0].headers, receiver.received[0].body
    assert body["echo"] == "hello"
    assert headers["Content-Type"] == "application/json"
    until(lambda: lab.task(task_id)["callback"]["state"] == "DELIVERED", what="the record of that")
    callback = {"state": "DELIVERED", "attempts": 1, "last_error": None}
    record = lab.task(task_id)
    assert (record["status"], record["result"], record["callback"]) == ("SUCCESS", body, callback)
    assert record["times"]["accepted"] <= record["times"]["started"] <= record["times"]["ended"]
    assert receiver.ids == [task_id]


def test_the_model_is_loaded_once_in_each_process_that_predicts_and_nowhere_else(lab: Driven) -> None:
    answers = [lab.post({}, prefer="wait=20").json() for _ in range(6)]
    assert all(answer["loaded by"] == answer["pid"] for answer in answers)
    # Nor was it loaded before the fork, and once more after it.
    assert all(answer["loads"] == 1 for answer in answers)
    assert "loading the model" in lab.log
    for service in ("api", "monitor"):
        assert "loading the model" not in lab.denzel("logs", "--service", service)


def test_as_many_tasks_run_at_once_as_there_are_processes(lab: Driven) -> None:
    with lab.occupied() as tasks:
        tasks.append(lab.submit({}))
        assert [lab.task(task)["status"] for task in tasks] == ["STARTED", "STARTED", "PENDING"]
    assert {lab.ended(task)["status"] for task in tasks} == {"SUCCESS"}


def test_a_failed_task_reports_its_cause_and_only_the_log_has_its_traceback(lab: Driven, receiver: Receiver) -> None:
    answer = lab.post({"raise": "no such plant", "callback_uri": receiver.uri(lab.backend)}, prefer="wait=20")
    problem = answer.json()
    task_id = problem["task_id"]
    assert answer.status_code == 500
    assert (problem["title"], problem["description"], problem["status"]) == ("Prediction failed", "no such plant", 500)
    error = {"type": "RuntimeError", "message": "no such plant"}
    failure = {"status": "FAILURE", "result": {"args": ["no such plant"]}, "error": error}
    assert problem["error"] == error
    record = lab.task(task_id)
    assert record.items() >= failure.items()
    until(lambda: receiver.received, what="the callback")
    assert receiver.bodies == [{**failure, "task_id": task_id}]
    failed = lab.denzel("logworker").partition(task_id)[2].partition("RuntimeError: no such plant")
    assert "Traceback" in failed[0]
    assert failed[1]


def test_all_lines_of_a_task_are_found_by_the_beginning_of_its_id(lab: Driven) -> None:
    task_id = lab.post({"raise": "no such plant"}, prefer="wait=20").json()["task_id"]
    printed, failed, *traceback = lab.denzel("logs", "--task", task_id[:13]).splitlines()
    assert f"{task_id}] processing {{'raise': 'no such plant'}}" in printed
    assert f" {task_id}] task " in failed
    assert traceback[0] == "Traceback (most recent call last):"
    assert "RuntimeError: no such plant" in traceback
    assert "No line of a task never-accepted" in lab.denzel("logs", "--task", "never-accepted", code=1)


def test_verify_input_refuses_with_the_message_of_its_exception(lab: Driven) -> None:
    answer = lab.post({"refuse": "too many petals"})
    assert answer.status_code == 400
    assert answer.json() == {"title": "Bad input format", "description": "too many petals", "status": 400}


def test_an_unknown_task_is_404(lab: Driven) -> None:
    answer = lab.get("/status/never-accepted")
    assert answer.status_code == 404
    assert answer.json()["title"] == "Unknown task"


def test_endpoints_that_hang_delay_no_prediction(lab: Driven, receiver: Receiver) -> None:
    receiver.hanging = True
    hanging = {"callback_uri": receiver.uri(lab.backend)}
    for _ in range(70):
        lab.submit(hanging)
    until(lambda: len(receiver.received) >= 5, what="attempts that hang")
    assert lab.post({"echo": 1, **hanging}, prefer="wait=5").json()["echo"] == 1


def test_many_synchronous_requests_wait_at_once_and_the_api_still_answers(lab: Driven) -> None:
    def seconds_to_answer() -> float:
        began = time.monotonic()
        assert lab.get("/health/live").status_code == 200
        return time.monotonic() - began

    with ThreadPoolExecutor(30) as pool:
        with lab.held() as order:
            waiting = [pool.submit(lab.post, {**order, "echo": n, "sleep": 0.1}, prefer="wait=50") for n in range(30)]
            until(lambda: len(lab.listed("tasks")) == 30, what="all of them to wait")
            times = [seconds_to_answer() for _ in range(20)]
        while not all(one.done() for one in waiting):
            times.append(seconds_to_answer())
        answers = [one.result() for one in waiting]
    assert [answer.json()["echo"] for answer in answers] == list(range(30))
    assert statistics.median(times) < 0.2
    assert max(times) < 2


def test_a_wait_that_runs_out_is_202_and_the_task_goes_on(lab: Driven) -> None:
    answer = lab.post({"sleep": 3, "echo": "later"}, prefer="wait=1")
    assert answer.status_code == 202
    task_id = answer.json()["data"]["task_id"]
    assert answer.headers["Location"] == f"/status/{task_id}"
    assert lab.ended(task_id)["result"]["echo"] == "later"


def test_response_changes_the_running_api_at_once_and_survives_a_restart(lab: Driven) -> None:
    process = lab.pid("api")
    lab.denzel("response", "--sync", "--timeout", "7")
    try:
        assert lab.post({"echo": 1}).json()["echo"] == 1
        assert lab.post({}, prefer="respond-async").json()["status"] == "success"
        assert lab.pid("api") == process
        lab.denzel("restart")
        assert lab.post({"echo": 2}).json()["echo"] == 2
    finally:
        lab.denzel("response", "--async")
    assert lab.post({}).json()["status"] == "success"


def test_ready_lists_the_worker(lab: Driven) -> None:
    for prefix in ("/health", "/v2/health"):
        assert lab.get(f"{prefix}/live").status_code == 200
        answer = lab.get(f"{prefix}/ready")
        assert answer.status_code == 200
        assert answer.json() == {
            "ready": True,
            "broker": "UP",
            "workers": [{"name": f"worker@{lab.name}", "state": "UP", "cause": ""}],
        }


def test_the_dashboard_shows_the_worker_and_the_task_with_its_arguments(lab: Driven) -> None:
    task_id = lab.submit({"echo": "look at me"})
    lab.ended(task_id)
    page = until(lambda: _page(f"{lab.monitor}/task/{task_id}"), what="the task on the dashboard")
    assert "look at me" in page
    assert "SUCCESS" in page
    assert f"worker@{lab.name}" in (_page(f"{lab.monitor}/workers") or "")


def _page(address: str) -> str | None:
    answer = requests.get(address, timeout=10)
    return answer.text if answer.status_code == 200 else None
