"""The services for real, as far as a test needs a hand on one process: entrypoints and a Redis of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from doubles.receiver import Receiver
from support.deployment import Deployment
from support.ports import find_free_port
from support.records import failed
from support.waiting import until

from app.serving.store import keys
from app.serving.store.tasks import TaskRecord

pytestmark = pytest.mark.local

# Predictions


def test_a_print_of_the_pipeline_is_one_line_of_the_log_file_with_the_id_of_its_task(shared: Deployment) -> None:
    task = shared.enqueue(echo="printed by the pipeline")
    shared.ended(task)
    log = shared.root / "logs" / "worker.log"
    until(lambda: "printed by the pipeline" in log.read_text(), what="the line in the log file")
    (line,) = (line for line in log.read_text().splitlines() if "printed by the pipeline" in line)
    assert re.fullmatch(rf"\[.*: INFO/Process-\d {task}\] processing {{'echo': 'printed by the pipeline'}}", line)
    assert "model loaded in " in log.read_text()


def test_a_print_of_verify_input_is_one_line_of_the_apis_log(shared: Deployment) -> None:
    shared.post({"print": "\udc80 ☃"})
    line = until(
        lambda: next((one for one in shared.output("api").splitlines() if "verify_input prints" in one), ""),
        what="the line in the api's log",
    )
    assert re.fullmatch(r"\[.*: INFO/print\] verify_input prints \\udc80 ☃", line)


# HTTP that never reaches the application, and spellings that a proxy would not let through


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /info\r\n\r\n", 400),
        (b"GET /info HTTP/9.9\r\n\r\n", 400),
        (b"GET /info HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: nonsense\r\n\r\n", 501),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnot a length\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /info HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 90_000 + b"\r\n\r\n", 431),
        (b"BREW /info HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400),
    ],
)
def test_malformed_http_is_answered_in_json(shared: Deployment, request_bytes: bytes, status: int) -> None:
    got, headers, body = raw(shared, request_bytes)
    assert got == status
    assert headers["content-type"].startswith("application/json")
    assert {"title", "description", "status"} <= set(json.loads(body))
    assert shared.healthy("api")


def raw(deployment: Deployment, request_bytes: bytes) -> tuple[int, dict[str, str], str]:
    """Send these bytes; the status, headers and body of the answer."""
    with socket.create_connection(("127.0.0.1", deployment.api_port), timeout=30) as connection:
        connection.sendall(request_bytes)
        answer = b""
        while not complete(answer):
            more = connection.recv(65536)
            if not more:
                break
            answer += more
    head, _, body = answer.decode("latin1").partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    return int(first.split()[1]), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}, body


def complete(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
    return bool(found) and bool(length) and len(body) >= int(length[0].split()[1])


def test_clients_that_stop_sending_do_not_block_the_api(shared: Deployment) -> None:
    silent = [socket.create_connection(("127.0.0.1", shared.api_port)) for _ in range(80)]
    try:
        for connection in silent:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert shared.get("/health/live").status_code == 200
    finally:
        for connection in silent:
            connection.close()


def test_a_slow_verify_input_does_not_delay_the_others(shared: Deployment) -> None:
    slow = [threading.Thread(target=shared.submit, args=({"verify for": 8},)) for _ in range(20)]
    for thread in slow:
        thread.start()
    started = time.monotonic()
    for _ in range(20):
        assert shared.post({}, prefer="wait=30").status_code == 200
    assert time.monotonic() - started < 6
    for thread in slow:
        thread.join(30)


def test_a_chunked_request_is_read_like_any_other(shared: Deployment) -> None:
    body = json.dumps({}).encode()
    answer = requests.post(shared.api + "/predict", data=iter([body[:5], body[5:]]), timeout=30)
    assert answer.status_code == 200


def test_a_body_over_the_limit_is_413_chunked_or_not(shared: Deployment) -> None:
    body = b'"' + b"x" * (11 * 1024 * 1024) + b'"'
    for data in (body, iter([body[: len(body) // 2], body[len(body) // 2 :]])):
        answer = requests.post(shared.api + "/predict", data=data, timeout=60)
        assert (answer.status_code, answer.json()["title"]) == (413, "Body too large")


@pytest.mark.parametrize("megabytes", [11, 50])
def test_a_client_that_sends_a_body_over_the_limit_to_its_end_reads_the_413(shared: Deployment, megabytes: int) -> None:
    body = b"x" * (megabytes * 1024 * 1024)
    for data in (body, iter([body])):
        # urllib sends all before it reads, and wants the connection ended.
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(shared.api + "/predict", data=data, timeout=60)
        with refusal.value:
            assert (refusal.value.code, json.load(refusal.value)["title"]) == (413, "Body too large")


def test_a_body_over_the_limit_is_refused_before_it_is_sent_where_the_client_asks(shared: Deployment) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    status, headers, body = raw(shared, head)
    assert (status, headers["connection"], json.loads(body)["title"]) == (413, "close", "Body too large")


def test_a_client_that_sends_an_endless_body_is_disconnected(shared: Deployment) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (1024 * 1024, b"x" * 1024 * 1024)
    with socket.create_connection(("127.0.0.1", shared.api_port), timeout=30) as connection:
        connection.sendall(head)
        with pytest.raises(ConnectionError):
            connection.sendall(chunk * 200)
    assert shared.healthy("api")


# Health


def test_health_is_0_for_each_service_that_is_up(shared: Deployment) -> None:
    assert [shared.health(service).returncode for service in ("api", "denzel", "monitor", "redis")] == [0, 0, 0, 0]


def test_health_is_not_0_for_what_is_not_there(shared: Deployment) -> None:
    port = find_free_port()
    nowhere = f"127.0.0.1:{port}"
    assert not shared.healthy("api", API_BIND=nowhere)
    assert not shared.healthy("monitor", MONITOR_BIND=nowhere)
    assert not shared.healthy("denzel", PROJECT_NAME="another")
    assert not shared.healthy("denzel", REDIS_URL=f"redis://:secret@{nowhere}/0")
    assert not shared.healthy("denzel", REDIS_URL=shared.environ["REDIS_URL"].replace("secret", "wrong"))


def test_health_is_not_0_for_another_server_on_the_port(shared: Deployment) -> None:
    assert not shared.healthy("api", API_BIND=shared.environ["MONITOR_BIND"])


@pytest.mark.parametrize("arguments", [[], ["celery"], ["nonsense"]])
def test_health_of_no_service_is_wrong_usage(shared: Deployment, arguments: list[str]) -> None:
    done = shared.health(*arguments)
    assert (done.returncode, done.stderr) == (64, "usage: health.sh api|denzel|monitor|redis\n")


# Processes that die


def test_a_predicting_process_that_is_killed_is_replaced_at_once(shared: Deployment) -> None:
    shared.until_all_are_ready()
    before = len(shared.loads())
    poison = shared.ended(shared.enqueue(die=True), within=14)
    assert poison.status == "FAILURE"
    assert poison.result == failed("WorkerDied", "the worker died while running this task, 3 times")
    until(lambda: len(shared.loads()) == before + 3, what="the model in the new process")
    for task in [shared.enqueue(sleep=0.2) for _ in range(4)]:
        assert shared.ended(task).status == "SUCCESS"
    assert shared.worker() == ("UP", "")


def test_an_idle_predicting_process_that_is_killed_is_replaced(shared: Deployment) -> None:
    before = shared.loads()
    os.kill(before[-1], signal.SIGKILL)
    until(lambda: len(shared.loads()) == len(before) + 1, what="the model in the new process")
    assert shared.ended(shared.enqueue()).status == "SUCCESS"


def test_the_callback_process_that_is_killed_is_started_again(shared: Deployment, receiver: Receiver) -> None:
    killed = until(shared.sender, what="the callback process")
    os.kill(killed, signal.SIGKILL)
    shared.post({"echo": "late", "callback_uri": receiver.uri()})
    until(lambda: receiver.received, what="the callback")
    assert shared.sender() not in (0, killed)
    assert "the sender was ended by SIGKILL; starting it again in 1 s" in shared.output("denzel")
    assert [body["echo"] for body in receiver.bodies] == ["late"]


def test_native_code_that_crashes_leaves_its_traceback_in_what_the_worker_prints(shared: Deployment) -> None:
    assert shared.ended(shared.enqueue(crash=True), within=60).status == "FAILURE"
    output = shared.output("denzel")
    assert "Fatal Python error: Segmentation fault" in output
    assert re.search(r'pipeline.py", line \d+ in predict', output)
    log = shared.root / "logs" / "worker.log"
    until(lambda: "ended with signal 11" in log.read_text(), what="the death in the log file")
    assert shared.ended(shared.enqueue()).status == "SUCCESS"


def test_a_pipeline_that_exits_fails_its_task_and_nothing_else(shared: Deployment) -> None:
    shared.until_all_are_ready()
    before = shared.loads()
    assert shared.ended(shared.enqueue(exit=1)).result == {
        "args": ["SystemExit: 1"],
        "error": {"type": "SystemExit", "message": "1"},
    }
    assert shared.loads() == before


LEAKS = """
kept = []

def process(model, json_data):
    kept.append(json_data)
    return json_data
"""


def test_processes_are_replaced_after_as_many_tasks_as_they_may_run(single: Deployment) -> None:
    single.environ["WORKER_MAX_TASKS"] = "10"
    single.launch("denzel")
    tasks = [single.enqueue(count="runs") for _ in range(50)]
    ran = [single.ended(task, within=60).result["pid"] for task in tasks]
    assert max(Counter(ran).values()) == 10
    assert single.counted("runs") == len(tasks)
    assert "ended with" not in single.output("denzel")


def test_a_process_that_holds_too_much_memory_is_replaced_between_two_tasks(single: Deployment) -> None:
    single.environ["WORKER_MAX_MB"] = "200"
    single.environ["WORKER_CONCURRENCY"] = "1"
    with single.pipeline.open("a") as file:
        file.write(LEAKS)
    single.launch("denzel")
    tasks = []
    for orders in ({}, {"allocate": 200}, {}):
        tasks.append(single.enqueue(**orders))
        single.ended(tasks[-1])
    first, second, third = (single.ended(task).result["pid"] for task in tasks)
    assert first == second != third
    assert "more than WORKER_MAX_MB, 200 MB" in single.output("denzel")
    assert {single.redis.hget(keys.task(task), "deliveries") for task in tasks} == {"1"}


# Loading


def test_a_model_that_cannot_be_loaded_is_reported_and_recovers_when_it_can(single: Deployment) -> None:
    single.order(fail_with="no weights yet")
    single.start("redis", "denzel")
    assert single.until_worker_is("ERROR") == "RuntimeError: no weights yet"
    task = single.enqueue()
    single.order()
    assert single.until_worker_is("UP") == ""
    assert single.ended(task).status == "SUCCESS"  # it waited on the queue


def test_a_load_model_that_ends_its_process_is_reported_with_its_exit_code_until_it_loads(single: Deployment) -> None:
    single.order(exit_with=3)
    single.start("redis", "denzel")
    cause = "load_model ended its process with exit code 3"
    assert single.until_worker_is("ERROR") == cause
    for _ in range(20):
        # Others are started in the place of those that ended.
        assert single.worker() == ("ERROR", cause)
        time.sleep(0.1)
    single.order()
    assert single.until_worker_is("UP") == ""


def test_what_a_killed_worker_reported_while_it_loaded_is_not_reported_of_the_next(single: Deployment) -> None:
    """Its entrypoint may have found no Redis to forget it in."""
    single.order(load_for=8)
    single.start("redis", "denzel")
    single.until_worker_is("LOADING")
    until(lambda: "worker@iris ready." in single.output("denzel"), what="the first to be there")
    single.kill("denzel")
    health = single.root / "entrypoints" / "health.sh"
    health.rename(single.root / "health.sh")
    single.start("denzel")
    until(lambda: single.output("denzel").count("worker@iris ready.") == 2, what="the next to be there")
    single.until_worker_is("LOADING")
    for _ in range(20):
        assert single.worker() == ("LOADING", "")
        time.sleep(0.1)


def test_a_worker_terminated_while_it_loads_stops_in_a_few_seconds(single: Deployment) -> None:
    # So that it ends by itself, and not because its time is over.
    single.environ["STOP_TIMEOUT"] = "60"
    single.order(load_for=600)
    single.start("redis", "denzel")
    single.until_worker_is("LOADING")
    until(lambda: "worker@iris ready." in single.output("denzel"), what="the worker to be past its own start")
    single.running["denzel"].terminate()
    assert single.exit_code("denzel", within=15) == 0
    until(lambda: not single.processes("denzel"), within=5, what="every process of the worker to be gone")
    assert single.worker() == ("", "")


def test_processes_that_load_the_model_exit_when_their_worker_is_killed(single: Deployment) -> None:
    single.order(load_for=600)
    single.start("redis", "denzel")
    until(lambda: single.output("denzel").count("loading the model") == 2, what="both processes to load")
    worker = single.main_process()
    loading = set(single.processes("denzel")) - {single.running["denzel"].pid, worker, single.sender()}
    assert len(loading) == 2
    os.kill(worker, signal.SIGKILL)
    until(lambda: not loading & set(single.processes("denzel")), within=5, what="both to exit")


def test_a_worker_whose_callbacks_cannot_be_sent_does_not_start(single: Deployment) -> None:
    """With Docker Compose alone nobody has checked the settings before."""
    single.environ["CALLBACK_SECRET"] = "whsec_QQ=="
    single.start("redis", "denzel")
    assert single.exit_code("denzel", within=30) != 0
    assert "CALLBACK_SECRET" in single.output("denzel")


# Stopping


def test_a_running_task_is_finished_and_called_back_when_the_worker_is_terminated(
    single: Deployment, receiver: Receiver
) -> None:
    single.environ["STOP_TIMEOUT"] = "40"
    single.launch("denzel", "api")
    task = single.submit({"once": "begun", "until": "released", "callback_uri": receiver.uri()})
    # STARTED means that a worker has taken it. One that has not begun goes back to the queue at once.
    until((single.root / "begun").exists, what="the task to run")
    single.running["denzel"].terminate()
    until(lambda: "Warm shutdown" in single.output("denzel"), what="the stop to begin")
    # The sender goes on meanwhile.
    other = single.enqueue_ended(receiver.uri())
    until(lambda: receiver.ids == [other], what="the callback of a task that ended before")
    (single.root / "released").touch()
    assert single.exit_code("denzel", within=15) == 0
    assert single.status_of(task) == "SUCCESS"
    assert receiver.ids == [other, task]
    assert single.worker() == ("", "")
    until(lambda: not single.processes("denzel"), within=5, what="every process of the worker to be gone")


def test_a_task_that_outlasts_the_stop_is_requeued_and_run_by_the_next_worker(single: Deployment) -> None:
    single.launch("denzel")
    long, waiting = single.enqueue(sleep=300, once="begun"), single.enqueue(once="begun-too", sleep=300)
    behind = single.enqueue()
    until(lambda: all((single.root / file).exists() for file in ("begun", "begun-too")), what="the tasks to run")
    single.running["denzel"].terminate()
    started = time.monotonic()
    single.exit_code("denzel", within=15)
    assert time.monotonic() - started < 10  # the stop time, when Docker would kill
    until(lambda: not single.processes("denzel"), within=5, what="every process of the worker to be gone")
    assert single.redis.llen(keys.QUEUE) == 3
    single.start("denzel")
    single.until_worker_is("UP")
    assert single.ended(long) == TaskRecord(status="SUCCESS", result={"run": "again"})
    assert single.ended(waiting) == TaskRecord(status="SUCCESS", result={"run": "again"})
    assert single.ended(behind).status == "SUCCESS"


def test_requests_that_wait_are_answered_at_once_when_the_api_is_terminated(single: Deployment) -> None:
    single.launch("api")
    task = single.submit({})
    waiting = [
        lambda: single.post({}, prefer="wait=200"),
        lambda: requests.get(f"{single.api}/status/{task}", headers={"Prefer": "wait=200"}, timeout=60),
    ]
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(ask) for ask in waiting]
        until(lambda: single.redis.llen(keys.QUEUE) == 2, what="the second task on the queue")
        # Both wait: each listens for ended tasks.
        until(lambda: single.redis.pubsub_numsub(keys.COMPLETIONS)[0][1], what="the wait for the first one")
        single.running["api"].terminate()
        posted, status = (answer.result(timeout=10) for answer in answers)
    assert (posted.status_code, posted.headers["Location"]) == (202, f"/status/{posted.json()['data']['task_id']}")
    assert (status.status_code, status.json()["status"], status.json()["position"]) == (200, "PENDING", 1)
    assert single.exit_code("api", within=15) == 0


def can_watch_processes() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def test_an_api_whose_gunicorn_was_killed_ends_too(single: Deployment) -> None:
    single.launch("api")
    gunicorn = single.running["api"].pid
    serving = set(single.processes("api")) - {gunicorn}
    assert serving
    os.kill(gunicorn, signal.SIGKILL)
    # Until they have ended, the next gunicorn does not get the port; their sign of life alone comes every 5 seconds.
    within = 3 if can_watch_processes() else 20
    until(lambda: not serving & set(single.processes("api")), within=within, what="the serving processes to end")


def test_every_service_ends_on_sigterm(single: Deployment) -> None:
    single.launch("denzel", "api", "monitor")
    for service in ("api", "denzel", "monitor", "redis"):
        single.running[service].terminate()
    for service in ("api", "denzel", "monitor", "redis"):
        single.exit_code(service, within=10)
        until(lambda service=service: not single.processes(service), within=5, what=f"all of {service} to be gone")
    assert not single.healthy("api")
    assert not single.healthy("denzel")
    assert not single.healthy("monitor")


# Redis


def test_work_goes_on_after_redis_was_killed_and_is_back(single: Deployment) -> None:
    """A worker that is up and consumes nothing is the failure to be afraid of (celery#8091)."""
    single.launch("denzel", "api")
    assert single.post({}, prefer="wait=30").status_code == 200
    until(lambda: not single.redis.exists(keys.UNACKED), what="the worker to be idle")
    single.kill("redis")
    away = single.post({})
    assert (away.status_code, away.json()["title"]) == (503, "Service unavailable")
    assert "Retry-After" in away.headers
    assert single.get("/health/ready").json()["broker"] == "DOWN"
    assert single.healthy("api")
    single.start("redis")
    task_id = single.submit_when_accepted()
    assert single.ended(task_id, within=60).status == "SUCCESS"
    single.until_worker_is("UP")
    assert single.post({}, prefer="wait=60").status_code == 200
    assert single.running["denzel"].poll() is None
    assert len(single.loads()) == 2


def test_work_goes_on_after_redis_was_killed_under_a_running_task(single: Deployment) -> None:
    single.launch("denzel", "api")
    running = single.enqueue(sleep=3, count="runs")
    until((single.root / "runs").exists, what="the task to run")
    single.kill("redis")
    single.start("redis")
    task_id = single.submit_when_accepted()
    assert single.ended(task_id, within=60).status == "SUCCESS"
    assert single.ended(running, within=60).status == "SUCCESS"
    single.until_worker_is("UP")
    assert single.running["denzel"].poll() is None
    assert single.counted("runs") == 1
    assert len(single.loads()) == 2
