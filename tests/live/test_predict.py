"""Tasks on real services: accepted, run, answered, called back, watched."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import requests
from support.driving import Driven, Receiver
from support.waiting import until


def test_a_task_is_accepted_run_stored_and_called_back(lab: Driven, receiver: Receiver) -> None:
    answer = lab.post({"echo": "hello", "callback_uri": receiver.uri(lab.backend)})
    task_id = answer.json()["data"]["task_id"]
    assert answer.json() == {"status": "success", "data": {"task_id": task_id}}
    assert answer.headers["Location"] == f"/status/{task_id}"
    until(lambda: receiver.received, what="the callback")
    headers, body = receiver.received[0]
    assert body["echo"] == "hello"
    assert headers["webhook-id"] == task_id
    assert headers["Content-Type"] == "application/json"
    until(lambda: lab.task(task_id)["callback"]["state"] == "DELIVERED", what="the record of that")
    callback = {"state": "DELIVERED", "attempts": 1, "last_error": None}
    assert lab.task(task_id) == {"status": "SUCCESS", "result": body, "callback": callback}


def test_a_process_that_predicts_has_loaded_its_own_model(lab: Driven) -> None:
    answers = [lab.post({}, prefer="wait=20").json() for _ in range(6)]
    assert all(answer["loaded by"] == answer["pid"] for answer in answers)


def test_as_many_tasks_run_at_once_as_there_are_processes(lab: Driven) -> None:
    with lab.occupied() as tasks:
        tasks.append(lab.submit({}))
        assert [lab.task(task)["status"] for task in tasks] == ["STARTED", "STARTED", "PENDING"]
    assert {lab.ended(task)["status"] for task in tasks} == {"SUCCESS"}


def test_numpy_results_are_answered_as_json(lab: Driven) -> None:
    assert lab.post({"numpy": True}, prefer="wait=20").json() == {
        "label": "setosa",
        "count": 3,
        "row": [[1.5, None]],
        "yes": True,
    }


def test_a_result_that_is_not_json_fails_with_its_path(lab: Driven) -> None:
    record = lab.ended(lab.submit({"figure": True}))
    assert record == {
        "status": "FAILURE",
        "result": {"args": ['result["a123"][2] is a object: not JSON serialisable']},
    }


def test_a_failing_task_says_why_everywhere_and_its_traceback_is_in_the_log_alone(
    lab: Driven, receiver: Receiver
) -> None:
    answer = lab.post({"raise": "no such plant", "callback_uri": receiver.uri(lab.backend)}, prefer="wait=20")
    problem = answer.json()
    task_id = problem["task_id"]
    assert answer.status_code == 500
    assert problem == {
        "title": "Prediction failed",
        "description": "no such plant",
        "status": 500,
        "task_id": task_id,
    }
    record = lab.task(task_id)
    assert (record["status"], record["result"]) == ("FAILURE", {"args": ["no such plant"]})
    until(lambda: receiver.received, what="the callback")
    assert receiver.bodies() == [{"status": "FAILURE", "result": {"args": ["no such plant"]}, "task_id": task_id}]
    log = lab.denzel("logworker")
    assert task_id in log
    assert "RuntimeError: no such plant" in log


def test_verify_input_refuses_with_the_message_of_its_exception(lab: Driven) -> None:
    answer = lab.post({"refuse": "too many petals"})
    assert answer.status_code == 400
    assert answer.json() == {"title": "Bad input format", "description": "too many petals", "status": 400}


def test_an_unknown_task_is_404(lab: Driven) -> None:
    answer = requests.get(f"{lab.api}/status/never-accepted", timeout=10)
    assert answer.status_code == 404
    assert answer.json()["title"] == "Unknown task"


def test_receivers_that_hang_delay_no_prediction(lab: Driven, silent_port: int) -> None:
    host = "host.docker.internal" if lab.backend == "docker" else "127.0.0.1"
    for _ in range(70):
        lab.submit({"callback_uri": f"http://{host}:{silent_port}/"})
    assert lab.post({"echo": 1}, prefer="wait=5").json()["echo"] == 1


def test_many_synchronous_requests_wait_at_once_and_the_api_still_answers(lab: Driven) -> None:
    with ThreadPoolExecutor(30) as pool:
        with lab.held() as order:
            waiting = [pool.submit(lab.post, {**order, "echo": n}, prefer="wait=50") for n in range(30)]
            until(lambda: len(lab.listed("tasks")) == 30, what="all of them to wait")
            assert requests.get(f"{lab.api}/health/live", timeout=5).status_code == 200
        answers = [one.result() for one in waiting]
    assert [answer.json()["echo"] for answer in answers] == list(range(30))


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
        assert requests.get(f"{lab.api}{prefix}/live", timeout=10).status_code == 200
        answer = requests.get(f"{lab.api}{prefix}/ready", timeout=10)
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
