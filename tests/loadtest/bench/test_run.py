"""The bench: what it sends, what it measures, what it leaves behind, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from doubles.small_project import Faults, SmallBackend, SmallProject, launched, small_project
from support.command import enter
from support.waiting import until

from denzel import cli
from denzel.errors import RequestUnusable, ServiceFailed, ServiceNotRunning
from denzel.lifecycle.status import read_status
from denzel.loadtest.bench import run as bench_room
from denzel.loadtest.bench.drain import Drain
from denzel.loadtest.bench.load import LoadProfile
from denzel.loadtest.bench.metrics import BenchReport, Waiting
from denzel.loadtest.bench.request_log import RequestLog
from denzel.loadtest.bench.requests import RequestTemplates
from denzel.loadtest.bench.run import BenchTimes, bench
from denzel.loadtest.bench.sampler import Sampler
from denzel.loadtest.http.client import HttpResponse
from denzel.project import dotenv
from denzel.services import QUEUE_KEY, RESPONSE_KEY, UNACKED_KEY, Service, State

#: A bench in a hurry, which waits for what a slow machine may be late with.
TIMES = BenchTimes(first=30, rest=30, quiet=5, look=0.01, gauges=0.05)

#: One that has to wait for what never comes.
GIVING_UP = replace(TIMES, rest=0.5, quiet=0.5)


class Noted:
    """What the bench has said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def doing(self, text: str) -> None:
        self.lines.append(text)


def run(
    folder: Path,
    small: SmallProject,
    *,
    requests: Sequence[Mapping[str, Any]] = ({"data": {}},),
    plan: LoadProfile | None = None,
    synchronous: bool | None = None,
    times: BenchTimes = TIMES,
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
            plan=plan or LoadProfile(seconds=0.3, clients=2),
            synchronous=synchronous,
            receiver_port=0,
            look=lambda: read_status(project, backend, name="iris"),
            progress=Noted(),
            times=times,
        )


def cancelled_and_called_back(small: SmallProject) -> None:
    """All that was accepted was cancelled, and its callback taken; the project notes that after its receiver."""
    assert small.cancelled == list(small.accepted)
    until(lambda: small.delivered == small.cancelled, what="the project to note the callbacks")


def ended(small: SmallProject) -> bool:
    """Whether no task of the project is under way."""
    return all(task["status"] != "PENDING" for task in small.accepted.values())


# ------------------------------------------------------------------ what is measured


def test_clients_send_one_request_after_another_through_to_the_callback(tmp_path: Path) -> None:
    with small_project() as small:
        figures = run(tmp_path, small)
        assert (figures.mode, figures.clients, figures.rate) == ("async", 2, None)
        # The first one is a check, and not counted.
        assert figures.sent == figures.accepted == figures.completed == len(small.accepted) - 1 > 2
        assert ended(small)
    assert (figures.errors, figures.cancelled, figures.lost_sight, figures.interrupted) == ([], 0, 0, False)
    assert figures.unfinished <= 2
    assert figures.accept is not None
    assert figures.end_to_end is not None
    assert figures.end_to_end.count == sum(bucket.count for bucket in figures.histogram) == figures.completed
    # A callback can be there before the answer is.
    assert min(figures.accept.p50, figures.end_to_end.p50) > 0
    assert figures.completed_per_second == pytest.approx(figures.completed / 0.3, rel=0.5)
    assert figures.processors is not None
    assert set(figures.processors.services) == {"api", "denzel", "monitor", "redis"}
    assert figures.queue


def test_what_the_worker_has_taken_is_looked_at_beside_the_queue(tmp_path: Path) -> None:
    with small_project() as small, launched(tmp_path, small, BACKEND="local") as (_, backend):
        backend.redis("LPUSH", QUEUE_KEY, "a")
        backend.redis("HSET", UNACKED_KEY, "tag", "b", "another", "c")

        async def look() -> list[Waiting]:
            async with Sampler(backend, every=0.01) as gauges:
                while len(gauges.queue) < 2:
                    await asyncio.sleep(0.01)
            return gauges.queue

        assert {(seen.tasks, seen.taken) for seen in asyncio.run(look())} == {(1, 2)}


def test_requests_at_fixed_times_do_not_wait_for_those_before(tmp_path: Path) -> None:
    with small_project(Faults(never_end=5)) as small:
        figures = run(tmp_path, small, plan=LoadProfile(seconds=0.5, rate=100), times=GIVING_UP)
        assert (figures.sent, figures.unsent, figures.completed) == (50, 0, 45)
        assert (figures.cancelled, len(small.cancelled), figures.lost_sight) == (5, 5, 0)
        assert ended(small)
    assert figures.unfinished >= 5


def test_requests_are_sent_in_turn_and_nobody_else_is_called_back(tmp_path: Path) -> None:
    requests = [{"data": 1, "callback_uri": "http://elsewhere.example/"}, {"data": 2}]
    with small_project() as small:
        run(tmp_path, small, requests=requests, plan=LoadProfile(seconds=0.2, rate=50))
    assert [body["data"] for body in small.bodies].count(1) in (5, 6)
    assert len({body["callback_uri"] for body in small.bodies}) == len(small.bodies) == 11
    assert all(re.fullmatch(r"http://127\.0\.0\.1:\d+/\w+/\d{9}", body["callback_uri"]) for body in small.bodies)
    assert small.preferences == {None}


def test_containers_are_given_the_name_by_which_they_reach_this_machine(tmp_path: Path) -> None:
    with small_project() as small:
        run(tmp_path, small, plan=LoadProfile(seconds=0.1, rate=50), BACKEND="docker")
    assert all(body["callback_uri"].startswith("http://host.docker.internal:") for body in small.bodies)


def test_synchronous_answers_are_the_end(tmp_path: Path) -> None:
    with small_project() as small:
        figures = run(tmp_path, small, synchronous=True)
    assert small.preferences == {"wait=60"}
    assert (figures.mode, figures.accept) == ("sync", None)
    assert figures.completed == figures.sent > 2
    assert all("callback_uri" not in body for body in small.bodies)


def test_a_synchronous_request_keeps_its_callback_and_that_is_waited_for(tmp_path: Path) -> None:
    with small_project() as small:
        figures = run(tmp_path, small, requests=[{"callback_uri": "http://elsewhere.example/"}], synchronous=True)
        assert all(task["callback"]["state"] == "DELIVERED" for task in small.accepted.values())
    assert all(body["callback_uri"].startswith("http://127.0.0.1:") for body in small.bodies)
    assert figures.lost_sight == 0


def test_callbacks_of_answered_requests_are_not_under_way(tmp_path: Path) -> None:
    """However long they take: the answer was the end."""
    requests = [{"callback_uri": "http://elsewhere.example/"}]
    with small_project(Faults(never_call_back=20)) as small:
        figures = run(tmp_path, small, requests=requests, synchronous=True, times=GIVING_UP)
    assert figures.lost_sight == 20
    assert figures.unfinished <= 2


def test_an_answer_that_is_not_ready_in_time_is_an_error_and_its_task_is_not_left(tmp_path: Path) -> None:
    with small_project(Faults(never_end=3), sync_seconds=0.1) as small:
        figures = run(tmp_path, small, synchronous=True, times=GIVING_UP)
        assert ended(small)
    assert [(error.kind, error.count) for error in figures.errors] == [("202", 3)]
    assert (figures.cancelled, figures.lost_sight) == (3, 0)


def test_the_mode_is_the_running_projects(tmp_path: Path) -> None:
    with small_project() as small:
        assert run(tmp_path, small, synchronous=False, mode="sync").mode == "async"
    assert small.preferences == {"respond-async"}


def test_failed_tasks_are_errors(tmp_path: Path) -> None:
    with small_project(Faults(fail=4)) as small:
        figures = run(tmp_path, small, plan=LoadProfile(seconds=0.2, rate=50))
    assert (figures.sent, figures.completed, figures.failed) == (10, 6, 4)
    assert [(error.kind, error.count, error.first) for error in figures.errors] == [("task failed", 4, "no")]


def test_refusals_are_errors_by_their_status(tmp_path: Path) -> None:
    with small_project(Faults(answer=(503, {"title": "Full", "description": "The queue is full."}))) as small:
        figures = run(tmp_path, small, plan=LoadProfile(seconds=0.2, rate=50))
    assert (figures.sent, figures.accepted, figures.end_to_end) == (10, 0, None)
    assert [(error.kind, error.count, error.first) for error in figures.errors] == [("503", 10, "The queue is full.")]


def test_answers_that_are_lost_are_errors(tmp_path: Path) -> None:
    with small_project(Faults(drop_answers=3)) as small:
        figures = run(tmp_path, small, plan=LoadProfile(seconds=0.2, rate=50))
    assert [(error.kind, error.count) for error in figures.errors] == [("no connection", 3)]
    assert (figures.accepted, figures.completed) == (7, 10)


def test_the_first_api_key_is_sent(tmp_path: Path) -> None:
    with small_project(key="first-key") as small:
        assert run(tmp_path, small).errors == []


def test_a_callback_that_never_comes_is_told(tmp_path: Path) -> None:
    with small_project(Faults(never_call_back=2)) as small:
        figures = run(tmp_path, small, plan=LoadProfile(seconds=0.2, rate=50), times=GIVING_UP)
    assert (figures.completed, figures.cancelled, figures.lost_sight) == (8, 0, 2)


# ------------------------------------------------------------------ what cannot begin


def test_a_request_that_the_api_does_not_take_ends_the_bench(tmp_path: Path) -> None:
    answer = (400, {"title": "Bad input format", "description": "no data to predict for!"})
    with small_project(Faults(answer=answer, answer_first=True)) as small, pytest.raises(RequestUnusable) as caught:
        run(tmp_path, small)
    assert str(caught.value) == "The api answered the request with 400: no data to predict for!"
    assert "--file" in caught.value.hint


def test_an_api_that_can_not_now_ends_the_bench(tmp_path: Path) -> None:
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
    with small_project(away={Service.DENZEL}) as small, pytest.raises(ServiceFailed, match=said):
        run(tmp_path, small, times=replace(GIVING_UP, first=0.2))
    assert len(small.cancelled) == 1


def test_a_receiver_that_nothing_reaches_ends_the_bench(tmp_path: Path) -> None:
    said = r"No callback came to http://.*/0+ within 0 s\."
    with small_project(Faults(unreachable=True)) as small, pytest.raises(ServiceFailed, match=said):
        run(tmp_path, small, times=replace(GIVING_UP, first=0.2))


def test_an_api_that_does_not_answer_ends_the_bench(tmp_path: Path) -> None:
    with small_project(away={Service.API}) as small, pytest.raises(ServiceNotRunning) as caught:
        run(tmp_path, small)
    assert str(caught.value) == f"The api does not answer at 127.0.0.1:{small.port}."


def test_a_first_answer_that_comes_too_late_ends_the_bench_and_its_task_is_cancelled(tmp_path: Path) -> None:
    with small_project(away={Service.DENZEL}) as small, pytest.raises(ServiceFailed, match="did not end within 0 s"):
        run(tmp_path, small, synchronous=True, times=replace(TIMES, first=0.2))
    assert small.cancelled == list(small.accepted)
    assert len(small.cancelled) == 1


def test_a_first_answer_that_is_lost_ends_the_bench_and_its_task_is_cancelled(tmp_path: Path) -> None:
    with (
        small_project(Faults(drop_first=True), away={Service.DENZEL}) as small,
        pytest.raises(ServiceNotRunning, match="does not answer"),
    ):
        run(tmp_path, small)
    cancelled_and_called_back(small)
    assert len(small.cancelled) == 1


def test_an_api_that_keeps_silent_is_not_waited_for_without_an_end(tmp_path: Path) -> None:
    with (
        small_project(Faults(verify_for=600)) as small,
        pytest.raises(ServiceFailed, match="did not end within 0 s"),
    ):
        run(tmp_path, small, times=BenchTimes(first=0.2, rest=0.2, quiet=0.2))
    assert small.asked == 2


# ------------------------------------------------------------------ the command


@pytest.fixture
def small() -> Iterator[SmallProject]:
    with small_project() as small:
        yield small


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: SmallProject) -> Iterator[SmallBackend]:
    """A launched project that is the current folder; its benches are in a hurry."""
    monkeypatch.setattr(bench_room, "TIMES", TIMES)
    with launched(tmp_path, small, BACKEND="local") as (project, backend):
        monkeypatch.setattr(cli, "open_backend", lambda *_: backend)
        enter(project.root, monkeypatch)
        yield backend


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
        r"END TO END REQUESTS",
        r"up to [\d.]+ m?s \d+ █+.?",
        rf"CPU CORES OF {os.cpu_count()}",
        r"denzel bench \d\.\d\d.*",
        r"QUEUE ▁+ 0 tasks at most",
        r"Bottleneck: \w+: .*",
    ):
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, result.stdout)


def test_the_figures_as_data(here: SmallBackend) -> None:
    result = denzel("--clients", "1", "--seconds", "0.2", "--sync", "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["mode"], figures["clients"], figures["rate"], figures["accept"]) == ("sync", 1, None, None)
    assert figures["completed"] == figures["end_to_end"]["count"] > 0
    assert figures["processors"]["others"] >= 0
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
def test_what_can_not_be_meant_is_wrong_usage(here: SmallBackend, options: list[str], said: str) -> None:
    result = denzel(*options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_bad_file_a_stopped_service_and_a_project_that_is_not_launched_are_told(here: SmallBackend) -> None:
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
        until(when, what="the moment of Ctrl-C")
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
    """One in which three tasks never end, until Ctrl-C."""
    small.faults.never_end = 3
    return interrupted(lambda: len(small.accepted) > 20, *options)


def test_ctrl_c_shows_what_was_measured_and_leaves_no_task(here: SmallBackend, small: SmallProject) -> None:
    figures = json.loads(interrupted_later(small, "--json").stdout)
    assert figures["interrupted"]
    assert figures["cancelled"] == len(small.cancelled) >= 3
    assert figures["completed"] + figures["cancelled"] == figures["sent"] >= 20
    assert figures["unsent"] <= 1
    assert ended(small)


def test_ctrl_c_cancels_also_what_is_answered_only_afterwards(here: SmallBackend, small: SmallProject) -> None:
    def are_on_their_way() -> bool:
        if len(small.accepted) > 5:
            small.away.add(Service.DENZEL)
            small.faults.verify_for = 0.5
        return small.asked > len(small.accepted) + 3

    figures = json.loads(interrupted(are_on_their_way, "--json").stdout)
    assert figures["cancelled"] == len(small.cancelled) > 3
    assert figures["completed"] + figures["cancelled"] == figures["sent"]
    assert figures["lost_sight"] == 0
    assert ended(small)


@pytest.mark.parametrize(
    ("body", "completed", "cancelled", "errors"),
    [
        ({"species": "setosa"}, 1, 0, 0),
        ({"status": "FAILURE", "task_id": "an-id", "result": {"args": ["no"]}}, 0, 0, 1),
        ({"status": "REVOKED", "task_id": "an-id", "result": None}, 0, 1, 0),
    ],
    ids=["done", "failed", "cancelled"],
)
def test_a_callback_says_whether_a_task_ended_before_it_was_cancelled(
    body: dict[str, Any], completed: int, cancelled: int, errors: int
) -> None:
    record = RequestLog(synchronous=False, has_callback=lambda number: True)
    number = record.begin(0.0)
    head = b"HTTP/1.1 200 OK\r\nlocation: /status/an-id\r\n\r\n"
    assert record.answer(number, HttpResponse(status=200, head=head, body=b"{}", when=1.0))
    record.cancelled.add(number)
    record.take_callback(number, 2.0, "an-id", json.dumps(body).encode())
    assert (len(record.completed), len(record.cancelled), sum(error.count for error in record.errors)) == (
        completed,
        cancelled,
        errors,
    )
    assert record.outstanding == 0


class SlowToCancel:
    """A client of an api that takes long to cancel, and calls back a while after it has."""

    def __init__(self, record: RequestLog, *, answer: int = 200) -> None:
        self._record = record
        self._answer = answer

    async def ask(self, request: bytes) -> HttpResponse:
        await asyncio.sleep(0.2)
        body = json.dumps({"status": "REVOKED", "task_id": "an-id", "result": None}).encode()
        asyncio.get_running_loop().call_later(0.05, self._record.take_callback, 0, 2.0, "an-id", body)
        return HttpResponse(status=self._answer, head=b"", body=b"{}", when=1.0)


@pytest.mark.parametrize("answer", [200, 503], ids=["cancelled", "cancelled, and the answer is another"])
def test_callbacks_are_waited_for_after_the_last_cancel_however_long_that_took(answer: int) -> None:
    record = RequestLog(synchronous=False, has_callback=lambda number: True)
    head = b"HTTP/1.1 200 OK\r\nlocation: /status/an-id\r\n\r\n"
    record.answer(record.begin(0.0), HttpResponse(status=200, head=head, body=b"{}", when=1.0))
    ends = Drain(
        SlowToCancel(record, answer=answer),  # type: ignore[arg-type]
        RequestTemplates([{}], server=("127.0.0.1", 1), key="", address="http://127.0.0.1:1/", always=True, prefer=""),
        doing=Noted().doing,
        look=0.01,
        quiet=0.15,
        clock=time.monotonic,
    )
    asyncio.run(ends.clear(record))
    assert (record.outstanding, record.cancelled, record.errors) == (0, {0}, [])


def test_ctrl_c_is_told_in_the_table(here: SmallBackend, small: SmallProject) -> None:
    assert re.search(r"^seconds +[\d.]+ \(interrupted\)$", interrupted_later(small).stdout, re.MULTILINE)


def test_ctrl_c_while_the_first_task_runs_cancels_it(here: SmallBackend, small: SmallProject) -> None:
    small.away.add(Service.DENZEL)
    interrupted(lambda: len(small.accepted) == 1)
    cancelled_and_called_back(small)


def test_ctrl_c_before_the_first_answer_cancels_the_task_that_comes_of_it(
    here: SmallBackend, small: SmallProject
) -> None:
    small.away.add(Service.DENZEL)
    small.faults.verify_for = 0.5
    said = interrupted(lambda: small.asked == 1).stdout
    assert "Asking which task the first request has become, to cancel it ..." in said
    assert "Cancelling 1 task that has not ended ..." in said
    cancelled_and_called_back(small)
    assert len(small.accepted) == 1


@pytest.mark.parametrize("request_body", [{"data": 1}, {"data": 1, "callback_uri": "http://elsewhere.example/"}])
def test_ctrl_c_while_the_first_result_is_waited_for_cancels_the_task(
    here: SmallBackend, small: SmallProject, tmp_path: Path, request_body: dict[str, Any]
) -> None:
    small.away.add(Service.DENZEL)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(request_body))
    interrupted(lambda: len(small.accepted) == 1, "--sync", "--file", str(path))
    assert small.cancelled == list(small.accepted)
    expected = small.cancelled if "callback_uri" in request_body else []
    until(lambda: small.delivered == expected, what="the project to note the callbacks")


def test_ctrl_c_while_the_first_request_is_refused_leaves_nothing_to_wait_for(
    here: SmallBackend, small: SmallProject
) -> None:
    small.faults = Faults(answer=(503, {"title": "Full"}), answer_first=True, verify_for=0.5)
    interrupted(lambda: small.asked == 1)
    assert small.accepted == {}
