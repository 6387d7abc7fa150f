"""The bench: its requests, measurements, cleaning up and end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from doubles.small_project import Faults, HiddenProgress, SmallBackend, SmallProject, launched, small_project
from support.waiting import until

from denzel import cli
from denzel.errors import RequestUnusable, ServiceFailed, ServiceNotRunning
from denzel.lifecycle.status import read_status
from denzel.loadtest.bench import run as bench_run
from denzel.loadtest.bench.drain import BenchTimings
from denzel.loadtest.bench.metrics import BenchReport, QueueSample
from denzel.loadtest.bench.run import bench
from denzel.loadtest.bench.sampler import Sampler
from denzel.loadtest.load import LoadProfile
from denzel.project import dotenv
from denzel.services import QUEUE_KEY, RESPONSE_KEY, UNACKED_KEY, Service, State

#: Short, but for what may be late on a slow machine.
TIMINGS = BenchTimings(
    first_task_timeout=30, drain_timeout=30, idle_timeout=5, poll_interval=0.01, sample_interval=0.05
)

#: For what never comes.
GIVING_UP = replace(TIMINGS, drain_timeout=0.5, idle_timeout=0.5)


def run(
    folder: Path,
    small: SmallProject,
    *,
    requests: Sequence[Mapping[str, Any]] = ({"data": {}},),
    profile: LoadProfile | None = None,
    synchronous: bool | None = None,
    timings: BenchTimings = TIMINGS,
    mode: str = "",
    **changes: str,
) -> BenchReport:
    with launched(folder, small, **{"BACKEND": "local", **changes}) as (project, backend):
        if mode:
            backend.redis("HSET", RESPONSE_KEY, "mode", mode)
        return bench(
            project,
            backend,
            dotenv.load(project.env_file, {}),
            requests=requests,
            profile=profile or LoadProfile(seconds=0.3, clients=2),
            synchronous=synchronous,
            receiver_port=0,
            read_status=lambda: read_status(project, backend, name="iris"),
            progress=HiddenProgress(),
            timings=timings,
        )


def cancelled_and_called_back(small: SmallProject) -> None:
    """Assert that every accepted task was cancelled, and its callback delivered."""
    assert small.cancelled == list(small.accepted)
    until(lambda: small.delivered == small.cancelled, what="the project to note the callbacks")


def ended(small: SmallProject) -> bool:
    """True when all tasks of the project have ended."""
    return all(task["status"] != "PENDING" for task in small.accepted.values())


# ------------------------------------------------------------------ measurements


def test_clients_send_a_request_when_the_one_before_was_called_back(tmp_path: Path) -> None:
    with small_project() as small:
        report = run(tmp_path, small)
        assert (report.mode, report.clients, report.rate) == ("async", 2, None)
        # The first one is a check, and not counted.
        assert report.sent == report.accepted == report.completed == len(small.accepted) - 1 > 2
        assert ended(small)
    assert (report.errors, report.cancelled, report.lost_sight, report.interrupted) == ([], 0, 0, False)
    assert report.unfinished <= 2
    assert report.accept is not None
    assert report.end_to_end is not None
    assert report.end_to_end.count == report.completed
    # A callback can be there before the answer is.
    assert min(report.accept.p50, report.end_to_end.p50) > 0
    assert report.completed_per_second == pytest.approx(report.completed / 0.3, rel=0.5)
    assert report.processors is not None
    assert set(report.processors.services) == {"api", "denzel", "monitor", "redis"}
    assert report.queue


def test_samples_count_queued_and_taken_tasks(tmp_path: Path) -> None:
    with small_project() as small, launched(tmp_path, small, BACKEND="local") as (_, backend):
        backend.redis("LPUSH", QUEUE_KEY, "a")
        backend.redis("HSET", UNACKED_KEY, "tag", "b", "another", "c")

        async def sample() -> list[QueueSample]:
            async with Sampler(backend, interval=0.01) as sampler:
                while len(sampler.queue) < 2:
                    await asyncio.sleep(0.01)
            return sampler.queue

        assert {(counts.tasks, counts.taken) for counts in asyncio.run(sample())} == {(1, 2)}


def test_requests_at_fixed_times_do_not_wait_for_those_before(tmp_path: Path) -> None:
    with small_project(Faults(never_end=5)) as small:
        report = run(tmp_path, small, profile=LoadProfile(seconds=0.5, rate=100), timings=GIVING_UP)
        assert (report.sent, report.unsent, report.completed) == (50, 0, 45)
        assert (report.cancelled, len(small.cancelled), report.lost_sight) == (5, 5, 0)
        assert ended(small)
    assert report.unfinished >= 5


def test_requests_are_sent_in_turn_and_no_other_endpoint_is_called_back(tmp_path: Path) -> None:
    requests = [{"data": 1, "callback_uri": "http://elsewhere.example/"}, {"data": 2}]
    with small_project() as small:
        run(tmp_path, small, requests=requests, profile=LoadProfile(seconds=0.2, rate=50))
    assert [body["data"] for body in small.bodies].count(1) in (5, 6)
    assert len({body["callback_uri"] for body in small.bodies}) == len(small.bodies) == 11
    assert all(re.fullmatch(r"http://127\.0\.0\.1:\d+/\w+/\d{9}", body["callback_uri"]) for body in small.bodies)
    assert small.prefer_headers == {None}


def test_containers_are_given_the_name_by_which_they_reach_this_machine(tmp_path: Path) -> None:
    with small_project() as small:
        run(tmp_path, small, profile=LoadProfile(seconds=0.1, rate=50), BACKEND="docker")
    assert all(body["callback_uri"].startswith("http://host.docker.internal:") for body in small.bodies)


def test_synchronous_requests_end_with_their_response(tmp_path: Path) -> None:
    with small_project() as small:
        report = run(tmp_path, small, synchronous=True)
    assert small.prefer_headers == {"wait=60"}
    assert (report.mode, report.accept) == ("sync", None)
    assert report.completed == report.sent > 2
    assert all("callback_uri" not in body for body in small.bodies)


def test_a_synchronous_request_keeps_its_callback_which_is_awaited(tmp_path: Path) -> None:
    with small_project() as small:
        report = run(tmp_path, small, requests=[{"callback_uri": "http://elsewhere.example/"}], synchronous=True)
        assert all(task["callback"]["state"] == "DELIVERED" for task in small.accepted.values())
    assert all(body["callback_uri"].startswith("http://127.0.0.1:") for body in small.bodies)
    assert report.lost_sight == 0


def test_a_synchronous_request_whose_callback_is_late_is_finished(tmp_path: Path) -> None:
    requests = [{"callback_uri": "http://elsewhere.example/"}]
    with small_project(Faults(never_call_back=20)) as small:
        report = run(tmp_path, small, requests=requests, synchronous=True, timings=GIVING_UP)
    assert report.lost_sight == 20
    assert report.unfinished <= 2


def test_a_result_that_is_not_ready_in_time_is_an_error_and_its_task_is_cancelled(tmp_path: Path) -> None:
    with small_project(Faults(never_end=3), sync_seconds=0.1) as small:
        report = run(tmp_path, small, synchronous=True, timings=GIVING_UP)
        assert ended(small)
    assert [(error.kind, error.count) for error in report.errors] == [("202", 3)]
    assert (report.cancelled, report.lost_sight) == (3, 0)


def test_the_response_mode_is_that_of_the_running_project(tmp_path: Path) -> None:
    with small_project() as small:
        assert run(tmp_path, small, synchronous=False, mode="sync").mode == "async"
    assert small.prefer_headers == {"respond-async"}


def test_failed_tasks_are_errors(tmp_path: Path) -> None:
    with small_project(Faults(fail=4)) as small:
        report = run(tmp_path, small, profile=LoadProfile(seconds=0.2, rate=50))
    assert (report.sent, report.completed, report.failed) == (10, 6, 4)
    assert [(error.kind, error.count, error.first) for error in report.errors] == [("task failed", 4, "no")]


def test_refusals_are_errors_by_their_status(tmp_path: Path) -> None:
    with small_project(Faults(answer=(503, {"title": "Full", "description": "The queue is full."}))) as small:
        report = run(tmp_path, small, profile=LoadProfile(seconds=0.2, rate=50))
    assert (report.sent, report.accepted, report.end_to_end) == (10, 0, None)
    assert [(error.kind, error.count, error.first) for error in report.errors] == [("503", 10, "The queue is full.")]


def test_lost_responses_are_errors(tmp_path: Path) -> None:
    with small_project(Faults(drop_responses=3)) as small:
        report = run(tmp_path, small, profile=LoadProfile(seconds=0.2, rate=50))
    assert [(error.kind, error.count) for error in report.errors] == [("no connection", 3)]
    assert (report.accepted, report.completed) == (7, 10)


def test_the_first_api_key_is_sent(tmp_path: Path) -> None:
    with small_project(key="first-key") as small:
        assert run(tmp_path, small).errors == []


def test_callbacks_that_never_arrive_are_counted(tmp_path: Path) -> None:
    with small_project(Faults(never_call_back=2)) as small:
        report = run(tmp_path, small, profile=LoadProfile(seconds=0.2, rate=50), timings=GIVING_UP)
    assert (report.completed, report.cancelled, report.lost_sight) == (8, 0, 2)


# ------------------------------------------------------------------ benches that cannot begin


def test_a_request_that_the_api_refuses_ends_the_bench(tmp_path: Path) -> None:
    answer = (400, {"title": "Bad input format", "description": "no data to predict for!"})
    with small_project(Faults(answer=answer, answer_first=True)) as small, pytest.raises(RequestUnusable) as caught:
        run(tmp_path, small)
    assert str(caught.value) == "The api answered the request with 400: no data to predict for!"
    assert "--file" in caught.value.hint


def test_an_api_that_is_unavailable_ends_the_bench(tmp_path: Path) -> None:
    answer = (503, {"title": "Unavailable", "description": "The queue is full."})
    with small_project(Faults(answer=answer, answer_first=True)) as small, pytest.raises(ServiceFailed) as caught:
        run(tmp_path, small)
    assert str(caught.value) == "The api answered the first request with 503: The queue is full."


def test_a_wrong_key_ends_the_bench(tmp_path: Path) -> None:
    with small_project(key="one") as small, pytest.raises(RequestUnusable, match="401: This needs an API key"):
        run(tmp_path, small, API_KEYS="another")


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_first_request_that_fails_ends_the_bench(tmp_path: Path, synchronous: bool) -> None:
    with small_project(Faults(fail_first="no")) as small, pytest.raises(RequestUnusable) as caught:
        run(tmp_path, small, synchronous=synchronous)
    assert str(caught.value) == "The first request failed: no."
    assert len(small.bodies) == 1


def test_a_first_task_that_does_not_end_ends_the_bench_and_is_cancelled(tmp_path: Path) -> None:
    said = r"The first task did not end within 0 s\."
    with small_project(down={Service.DENZEL}) as small, pytest.raises(ServiceFailed, match=said):
        run(tmp_path, small, timings=replace(GIVING_UP, first_task_timeout=0.2))
    assert len(small.cancelled) == 1


def test_a_receiver_that_no_callback_reaches_ends_the_bench(tmp_path: Path) -> None:
    said = r"No callback came to http://.*/0+ within 0 s\."
    with small_project(Faults(unreachable=True)) as small, pytest.raises(ServiceFailed, match=said):
        run(tmp_path, small, timings=replace(GIVING_UP, first_task_timeout=0.2))


def test_an_api_that_does_not_answer_ends_the_bench(tmp_path: Path) -> None:
    with small_project(down={Service.API}) as small, pytest.raises(ServiceNotRunning) as caught:
        run(tmp_path, small)
    assert str(caught.value) == f"The api does not answer at 127.0.0.1:{small.port}."


def test_a_late_first_response_ends_the_bench_and_its_task_is_cancelled(tmp_path: Path) -> None:
    with small_project(down={Service.DENZEL}) as small, pytest.raises(ServiceFailed, match="did not end within 0 s"):
        run(tmp_path, small, synchronous=True, timings=replace(TIMINGS, first_task_timeout=0.2))
    assert small.cancelled == list(small.accepted)
    assert len(small.cancelled) == 1


def test_a_lost_first_response_ends_the_bench_and_its_task_is_cancelled(tmp_path: Path) -> None:
    with (
        small_project(Faults(drop_first=True), down={Service.DENZEL}) as small,
        pytest.raises(ServiceNotRunning, match="does not answer"),
    ):
        run(tmp_path, small)
    cancelled_and_called_back(small)
    assert len(small.cancelled) == 1


def test_a_hanging_api_times_out(tmp_path: Path) -> None:
    with (
        small_project(Faults(verify_seconds=600)) as small,
        pytest.raises(ServiceFailed, match="did not end within 0 s"),
    ):
        run(tmp_path, small, timings=BenchTimings(first_task_timeout=0.2, drain_timeout=0.2, idle_timeout=0.2))
    assert small.received == 2


# ------------------------------------------------------------------ the command


@pytest.fixture(autouse=True)
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "BENCH_TIMINGS", TIMINGS)


def denzel(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["bench", *arguments])


def test_the_command_prints_its_tables(here: SmallBackend) -> None:
    result = denzel("--rate", "50", "--seconds", "0.4")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[:2] == ["Sending a first request ...", "Sending 50 requests per second for 0.4 s ..."]
    assert "REQUESTS 20" in lines
    for pattern in (
        # As many as were answered in these seconds.
        r"accepted 20 \(([1-4]\d|50) per second\)",
        r"called back 20 \(\d+ per second\)",
        r"LATENCY P50 P90 P99 MAX",
        r"end to end( [\d.]+ m?s){4}",
        rf"CPU CORES OF {os.cpu_count()}",
        r"denzel bench \d\.\d\d.*",
        r"QUEUE ▁+ 0 tasks at most",
        r"Bottleneck: \w+: .*",
    ):
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, result.stdout)


def test_the_report_as_json(here: SmallBackend) -> None:
    result = denzel("--clients", "1", "--seconds", "0.2", "--sync", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["mode"], report["clients"], report["rate"], report["accept"]) == ("sync", 1, None, None)
    assert report["completed"] == report["end_to_end"]["count"] > 0
    assert report["processors"]["others"] >= 0
    assert "Sending requests of 1 client for 0.2 s" in result.stderr


def test_another_file_is_read(here: SmallBackend, small: SmallProject, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"data": "a"}\n{"data": "b"}\n')
    assert denzel("--file", str(tmp_path / "mine.jsonl"), "--rate", "20", "--seconds", "0.2").exit_code == 0
    assert {body["data"] for body in small.bodies} == {"a", "b"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rate", "5", "--clients", "5"], "Both --rate and --clients were passed."),
        (["--seconds", "0"], "Invalid value for '--seconds'"),
        (["--rate", "0"], "Invalid value for '--rate'"),
        (["--rate", "nan"], "Invalid value for '--rate': 'nan' is not a number."),
        (["--seconds", "nan"], "Invalid value for '--seconds': 'nan' is not a number."),
        (["--clients", "0"], "Invalid value for '--clients'"),
    ],
)
def test_options_without_a_meaning_are_wrong_usage(here: SmallBackend, options: list[str], said: str) -> None:
    result = denzel(*options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_bad_file_a_stopped_service_and_a_project_that_is_not_launched_are_errors(here: SmallBackend) -> None:
    assert "Error: missing.json cannot be read: No such file or directory." in denzel("--file", "missing.json").stderr
    here.machine.services[Service.API] = State.DOWN
    result = denzel()
    assert result.exit_code == 1
    assert "Error: The project is not ready: not every service is up." in result.stderr
    here.machine.services.clear()
    assert "Error: The project is not launched." in denzel().stderr


def interrupted(when: Callable[[], bool], *options: str) -> Result:
    """A bench until Ctrl-C."""

    def interrupt() -> None:
        until(when, what="the time of Ctrl-C")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = denzel("--rate", "50", "--seconds", "600", *options)
    thread.join()
    assert result.exit_code == 1
    assert "Interrupted." in result.stderr
    assert "Error:" not in result.stderr
    return result


def interrupted_later(small: SmallProject, *options: str) -> Result:
    """A bench in which three tasks never end, until Ctrl-C."""
    small.faults.never_end = 3
    return interrupted(lambda: len(small.accepted) > 20, *options)


def test_ctrl_c_shows_what_was_measured_and_leaves_no_task(here: SmallBackend, small: SmallProject) -> None:
    report = json.loads(interrupted_later(small, "--json").stdout)
    assert report["interrupted"]
    assert report["cancelled"] == len(small.cancelled) >= 3
    assert report["completed"] + report["cancelled"] == report["sent"] >= 20
    assert report["unsent"] <= 1
    assert ended(small)


def test_ctrl_c_also_cancels_tasks_whose_response_arrives_afterwards(here: SmallBackend, small: SmallProject) -> None:
    def are_on_their_way() -> bool:
        if len(small.accepted) > 5:
            small.down.add(Service.DENZEL)
            small.faults.verify_seconds = 0.5
        return small.received > len(small.accepted) + 3

    report = json.loads(interrupted(are_on_their_way, "--json").stdout)
    assert report["cancelled"] == len(small.cancelled) > 3
    assert report["completed"] + report["cancelled"] == report["sent"]
    assert report["lost_sight"] == 0
    assert ended(small)


def test_ctrl_c_is_in_the_table(here: SmallBackend, small: SmallProject) -> None:
    assert re.search(r"^seconds +[\d.]+ \(interrupted\)$", interrupted_later(small).stdout, re.MULTILINE)


def test_ctrl_c_while_the_first_task_runs_cancels_it(here: SmallBackend, small: SmallProject) -> None:
    small.down.add(Service.DENZEL)
    interrupted(lambda: len(small.accepted) == 1)
    cancelled_and_called_back(small)


def test_ctrl_c_before_the_first_response_cancels_its_task(here: SmallBackend, small: SmallProject) -> None:
    small.down.add(Service.DENZEL)
    small.faults.verify_seconds = 0.5
    said = interrupted(lambda: small.received == 1).stdout
    assert "Asking which task the first request has become, to cancel it ..." in said
    assert "Cancelling 1 task that has not ended ..." in said
    cancelled_and_called_back(small)
    assert len(small.accepted) == 1


@pytest.mark.parametrize("request_body", [{"data": 1}, {"data": 1, "callback_uri": "http://elsewhere.example/"}])
def test_ctrl_c_before_the_first_result_cancels_its_task(
    here: SmallBackend, small: SmallProject, tmp_path: Path, request_body: dict[str, Any]
) -> None:
    small.down.add(Service.DENZEL)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(request_body))
    interrupted(lambda: len(small.accepted) == 1, "--sync", "--file", str(path))
    assert small.cancelled == list(small.accepted)
    expected = small.cancelled if "callback_uri" in request_body else []
    until(lambda: small.delivered == expected, what="the project to note the callbacks")


def test_ctrl_c_while_the_first_request_is_refused_leaves_no_task(here: SmallBackend, small: SmallProject) -> None:
    small.faults = Faults(answer=(503, {"title": "Full"}), answer_first=True, verify_seconds=0.5)
    interrupted(lambda: small.received == 1)
    assert small.accepted == {}
