"""The drill: what it sends, what it kills, what it counts, and how it ends."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from doubles.small_project import Faults, SmallBackend, SmallProject, launched, small_project
from support.command import enter
from support.waiting import until

from denzel import cli
from denzel.errors import DrillFailed, PortTaken, RequestUnusable, ServiceFailed, ServiceNotRunning, TooFewTasks
from denzel.lifecycle.status import read_status
from denzel.loadtest.drill import run as drill_room
from denzel.loadtest.drill.load import Load
from denzel.loadtest.drill.receiver import Behaviour, Receiver
from denzel.loadtest.drill.results import PARTS, DrillCallback, DrillReport, Outage, SentTask, check, count
from denzel.loadtest.drill.run import DrillTimes, drill
from denzel.loadtest.request_file import read_requests
from denzel.project import dotenv
from denzel.project.scaffold import start_project
from denzel.services import Service, State

#: A drill in a hurry, which waits for what a slow machine may be late with.
TIMES = DrillTimes(beat=0.05, away=0.1, first=30, recovery=30, patience=30, pause=0.02, look=0.01)

#: One that has to wait for what never comes.
GIVING_UP = replace(TIMES, patience=1.5)


class Noted:
    """What the drill has said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def doing(self, text: str) -> None:
        self.lines.append(text)

    note = doing


def run(
    folder: Path,
    small: SmallProject,
    *,
    requests: Sequence[Mapping[str, Any]] = ({"data": {}},),
    tasks: int = 40,
    parts: Sequence[str] = ("api",),
    times: DrillTimes = TIMES,
    **changes: str,
) -> DrillReport:
    with launched(folder, small, **changes) as (project, backend):
        return drill(
            project,
            backend,
            dotenv.load(project.env_file, {}),
            requests=requests,
            tasks=tasks,
            parts=parts,
            receiver_port=0,
            look=lambda: read_status(project, backend, name="iris"),
            progress=Noted(),
            times=times,
        )


# ------------------------------------------------------------------ a project that keeps its promises


def test_every_part_is_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    with small_project(secret="whsec_" + base64.b64encode(b"s" * 32).decode()) as small:
        figures = run(tmp_path, small, tasks=120, parts=PARTS)
    assert small.killed[1:] == ["denzel", "api", "monitor", "redis"]
    assert re.fullmatch(r"process 1[12]", small.killed[0])
    assert (figures.accepted, figures.completed, figures.called_back) == (120, 120, 120)
    assert (figures.lost, figures.made_twice, figures.bad_signatures, figures.failed) == ([], [], 0, 0)
    assert [(part.part, part.killed) for part in figures.parts] == [
        *((part, 1) for part in ("worker", "denzel", "api", "monitor", "redis")),
        *((f"receiver ({mood})", 1) for mood in ("answers 500", "silent", "closed")),
    ]
    assert all(part.recovered is not None for part in figures.parts)
    assert figures.slowest_recovery == max(part.recovered or 0 for part in figures.parts)
    assert figures.refused["503"] > 0
    assert figures.refused["no connection"] > 0
    check(figures)


def test_requests_are_sent_in_turn_each_with_a_callback_of_its_own(tmp_path: Path) -> None:
    requests = [{"data": {"a": 1}, "callback_uri": "http://elsewhere.example/"}, {"data": {"b": 2}}]
    with small_project() as small:
        run(tmp_path, small, requests=requests, tasks=10, parts=["monitor"], BACKEND="local")
    assert [body["data"] for body in small.bodies].count({"a": 1}) == 5
    assert [body["data"] for body in small.bodies].count({"b": 2}) == 5
    addresses = {body["callback_uri"] for body in small.bodies}
    assert len(addresses) == 10
    assert all(re.fullmatch(r"http://127\.0\.0\.1:\d+/[0-9a-f]+/\d+", address) for address in addresses)
    assert small.preferences == {"respond-async"}


def test_containers_are_given_the_name_by_which_they_reach_this_machine(tmp_path: Path) -> None:
    with small_project() as small:
        run(tmp_path, small, tasks=9, parts=["monitor"])
    assert len(small.bodies) == 9
    assert all(body["callback_uri"].startswith("http://host.docker.internal:") for body in small.bodies)


def test_the_first_api_key_is_sent(tmp_path: Path) -> None:
    with small_project(key="first-key") as small:
        assert run(tmp_path, small, tasks=9, parts=["monitor"]).accepted == 9


def test_a_part_named_twice_is_killed_twice(tmp_path: Path) -> None:
    with small_project() as small:
        figures = run(tmp_path, small, parts=["worker", "worker"])
    assert [(part.part, part.killed) for part in figures.parts] == [("worker", 2)]


def test_a_lost_answer_makes_no_second_task(tmp_path: Path) -> None:
    with small_project(Faults(drop_answers=5)) as small:
        figures = run(tmp_path, small)
    assert len(small.accepted) == figures.accepted == 40
    assert figures.refused["no connection"] >= 5
    assert (figures.lost, figures.made_twice) == ([], [])


# ------------------------------------------------------------------ a project that does not


def broken(figures: DrillReport) -> str:
    with pytest.raises(DrillFailed) as caught:
        check(figures)
    return str(caught.value)


@pytest.mark.parametrize("fault", ["never_end", "never_call_back", "forget"])
def test_a_task_without_an_end_or_a_callback_is_lost(tmp_path: Path, fault: str) -> None:
    with small_project(Faults(**{fault: 3})) as small:
        figures = run(tmp_path, small, times=GIVING_UP)
    assert len(figures.lost) == 3
    assert figures.completed == (40 if fault == "never_call_back" else 37)
    assert figures.called_back == 37
    assert broken(figures) == f"Accepted tasks were lost, 3 of 40: {', '.join(figures.lost)}."


def test_callbacks_that_come_twice_are_counted_and_no_fault(tmp_path: Path) -> None:
    with small_project(Faults(call_back_twice=4)) as small:
        figures = run(tmp_path, small)
    assert (figures.called_back, figures.called_back_twice, figures.lost) == (40, 4, [])
    check(figures)


def test_failed_tasks_are_completed_ones(tmp_path: Path) -> None:
    with small_project(Faults(fail=2)) as small:
        figures = run(tmp_path, small)
    assert (figures.completed, figures.failed, figures.failure, figures.lost) == (40, 2, "no", [])
    check(figures)


def test_bad_signatures_break_the_promise(tmp_path: Path) -> None:
    with small_project(Faults(sign_badly=2), secret="whsec_" + base64.b64encode(b"s" * 32).decode()) as small:
        figures = run(tmp_path, small)
    assert figures.bad_signatures == 2
    assert broken(figures).startswith("Callbacks had a bad signature, 2: it was made with another secret")


def test_a_request_that_makes_two_tasks_breaks_the_promise(tmp_path: Path) -> None:
    with small_project(Faults(drop_answers=2, make_twice=2)) as small:
        figures = run(tmp_path, small)
    assert figures.lost == []
    assert len(figures.made_twice) == 2
    assert broken(figures).startswith("Requests were made into a second task, 2: ")


def test_a_part_that_does_not_come_back_breaks_the_promise(tmp_path: Path) -> None:
    with small_project(away={Service.MONITOR}) as small:
        figures = run(tmp_path, small, tasks=10, parts=["monitor"], times=replace(TIMES, recovery=0.1))
    assert figures.parts[0].recovered is None
    assert figures.slowest_recovery is None
    assert broken(figures) == "monitor did not recover."


def test_an_api_that_refuses_for_ever_breaks_the_promise(tmp_path: Path) -> None:
    with small_project(Faults(answer=(503, {"title": "The queue is full"}))) as small:
        figures = run(tmp_path, small, tasks=10, parts=["monitor"], times=GIVING_UP)
    assert (figures.accepted, figures.lost) == (1, [])
    assert figures.refused["503"] > 9
    assert broken(figures) == "Requests were never accepted, 9 of 10."


# ------------------------------------------------------------------ what cannot begin


def test_a_request_that_the_api_does_not_take_ends_the_drill(tmp_path: Path) -> None:
    answer = {"title": "Bad input format", "description": "no data to predict for!"}
    with small_project(Faults(answer=(400, answer))) as small, pytest.raises(RequestUnusable) as caught:
        run(tmp_path, small)
    assert str(caught.value) == "The api answered the request with 400: no data to predict for!"
    assert "--file" in caught.value.hint
    assert small.killed == []


def test_a_wrong_key_ends_the_drill(tmp_path: Path) -> None:
    with small_project(key="one") as small, pytest.raises(RequestUnusable, match="401: This needs an API key"):
        run(tmp_path, small, API_KEYS="another")


def test_a_first_request_that_fails_ends_the_drill(tmp_path: Path) -> None:
    """The example of a new project, on a pipeline that wants more."""
    with small_project(Faults(fail_first="no\nsepal-length.")) as small, pytest.raises(RequestUnusable) as caught:
        run(tmp_path, small)
    assert str(caught.value) == "The first request failed: no sepal-length."
    assert "app/assets/example.json" in caught.value.hint
    assert "--file" in caught.value.hint
    assert (len(small.bodies), small.killed) == (1, [])


def test_a_first_task_that_does_not_end_ends_the_drill(tmp_path: Path) -> None:
    said = r"The first task did not end within 0 s\."
    with small_project(away={Service.DENZEL}) as small, pytest.raises(ServiceFailed, match=said):
        run(tmp_path, small, times=replace(TIMES, first=0.2))


def test_a_receiver_that_nothing_reaches_ends_the_drill(tmp_path: Path) -> None:
    said = r"No callback came to http://.*/0 within 0 s\."
    with small_project(Faults(unreachable=True)) as small, pytest.raises(ServiceFailed, match=said):
        run(tmp_path, small, times=replace(TIMES, first=0.2))


def test_a_project_that_is_not_ready_is_not_drilled(tmp_path: Path) -> None:
    with small_project() as small, launched(tmp_path, small) as (project, backend):
        backend.machine.services[Service.API] = State.STARTING
        with pytest.raises(ServiceNotRunning, match="not every service is up"):
            drill(
                project,
                backend,
                dotenv.load(project.env_file, {}),
                requests=[{}],
                tasks=1,
                parts=["api"],
                receiver_port=0,
                look=lambda: read_status(project, backend, name="iris"),
                progress=Noted(),
            )
        assert small.accepted == {}


def test_a_port_that_is_taken_is_refused() -> None:
    with Receiver("127.0.0.1", 0, secret="") as other, pytest.raises(PortTaken) as caught:
        Receiver("127.0.0.1", other.port, secret="").__enter__()
    assert str(caught.value) == f"The receiver cannot have port {other.port}: Address already in use."


# ------------------------------------------------------------------ the file of requests


def test_a_file_holds_one_request_or_a_list(tmp_path: Path) -> None:
    path = tmp_path / "requests.json"
    path.write_text('{"data": 1}')
    assert read_requests(path) == [{"data": 1}]
    path.write_text('[{"data": 1}, {"data": 2}]')
    assert read_requests(path) == [{"data": 1}, {"data": 2}]
    path.write_text('{\n  "data": 1\n}\n')
    assert read_requests(path) == [{"data": 1}]


def test_a_file_holds_a_request_in_each_line(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"data": 1}\n\n{"data": 2}\n')
    assert read_requests(path) == [{"data": 1}, {"data": 2}]
    path.write_text('{"data": 1}\n\n{"data": 2\n')
    with pytest.raises(RequestUnusable, match=r"^Line 3 of .* is not JSON: "):
        read_requests(path)
    path.write_text('{"data": 1}\n[2]\n')
    with pytest.raises(RequestUnusable, match="no place for a callback_uri"):
        read_requests(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot be read: No such file or directory."),
        ("{", "is not JSON: Expecting property name"),
        ("[]", "holds no request."),
        ("[[1, 2]]", "holds a request that is [1, 2], and so has no place for a callback_uri."),
        ('"text"', 'holds a request that is "text", and so has no place for a callback_uri.'),
    ],
)
def test_a_file_that_holds_no_requests_is_refused(tmp_path: Path, text: str | None, complaint: str) -> None:
    path = tmp_path / "requests.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RequestUnusable) as caught:
        read_requests(path)
    assert f"{path} {complaint}" in str(caught.value)
    assert "--file" in caught.value.hint


def test_the_example_of_a_new_project_is_a_request(tmp_path: Path) -> None:
    assert read_requests(start_project("iris", tmp_path).example) == [{"data": {}}]


# ------------------------------------------------------------------ the receiver


def post(receiver: Receiver, number: int | str = 0, *, timeout: float = 5) -> int:
    connection = HTTPConnection("127.0.0.1", receiver.port, timeout=timeout)
    try:
        path = "/" + receiver.address("127.0.0.1", 0).split("/", 3)[3][:-1]
        connection.request("POST", f"{path}{number}", body=b"{}", headers={"Webhook-Id": f"task-{number}"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_receiver_takes_what_comes_on_its_own_paths() -> None:
    with Receiver("127.0.0.1", 0, secret="") as receiver:
        assert post(receiver, 3) == 204
        assert post(receiver, "x") == 404
        assert post(receiver, "../3") == 404
        assert [(arrival.number, arrival.task_id) for arrival in receiver.arrivals] == [(3, "task-3")]


def test_a_receiver_fails_is_silent_goes_away_and_comes_back() -> None:
    with Receiver("127.0.0.1", 0, secret="") as receiver:
        receiver.turn(Behaviour.FAILING)
        assert post(receiver) == 500
        receiver.turn(Behaviour.SILENT)
        with pytest.raises(TimeoutError):
            post(receiver, timeout=0.2)
        receiver.turn(Behaviour.CLOSED)
        with pytest.raises(ConnectionRefusedError):
            post(receiver)
        assert receiver.arrivals == []
        receiver.turn(Behaviour.TAKING)
        assert post(receiver) == 204
        assert len(receiver.arrivals) == 1


@pytest.mark.parametrize(
    ("length", "status"),
    [("", 411), ("-1", 411), ("many", 411), ("1.5", 411), (str(65 * 2**20), 413), ("9" * 5000, 413)],
    ids=lambda value: str(value)[:10],
)
def test_a_receiver_takes_no_body_without_a_bound(length: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    header = f"Content-Length: {length}\r\n" if length else ""
    with Receiver("127.0.0.1", 0, secret="") as receiver:
        path = "/" + receiver.address("127.0.0.1", 0).split("/", 3)[3]
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\n{header}\r\n".encode())
            assert connection.makefile("rb").readline().startswith(f"HTTP/1.0 {status} ".encode())
        assert post(receiver) == 204
        assert len(receiver.arrivals) == 1
    assert capsys.readouterr().err == ""


def test_a_receiver_that_is_closed_is_reached_over_no_connection_of_before() -> None:
    with Receiver("127.0.0.1", 0, secret="") as receiver:
        path = "/" + receiver.address("127.0.0.1", 0).split("/", 3)[3]
        connection = HTTPConnection("127.0.0.1", receiver.port, timeout=10)
        connection.request("POST", path, body=b"{}")
        assert connection.getresponse().read() == b""
        receiver.turn(Behaviour.CLOSED)
        with pytest.raises(ConnectionRefusedError):
            connection.request("POST", path, body=b"{}")
        connection.close()


class Thief:
    """Takes the port of a drill's receiver as soon as that is closed, and gives it back when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.socket: socket.socket | None = None
        self.tries = 0
        turn = Receiver.turn

        def watched(receiver: Receiver, mood: Behaviour) -> None:
            if self.socket is not None and mood is Behaviour.TAKING:
                self.tries += 1
                if self.tries == 3 and not self.keeps:
                    self.give_back()
            turn(receiver, mood)
            if mood is Behaviour.CLOSED:
                self.socket = socket.create_server(("127.0.0.1", receiver.port))

        self.keeps = False
        monkeypatch.setattr(Receiver, "turn", watched)

    def give_back(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


@pytest.fixture
def thief(monkeypatch: pytest.MonkeyPatch) -> Iterator[Thief]:
    thief = Thief(monkeypatch)
    yield thief
    thief.give_back()


def test_a_port_that_is_taken_while_the_receiver_is_away_is_waited_for(tmp_path: Path, thief: Thief) -> None:
    with small_project() as small:
        figures = run(tmp_path, small, parts=["receiver"], BACKEND="local")
    assert thief.tries == 3
    assert figures.parts[-1].part == "receiver (closed)"
    check(figures)


def test_a_port_that_never_comes_back_ends_the_drill(tmp_path: Path, thief: Thief) -> None:
    thief.keeps = True
    with small_project() as small, pytest.raises(PortTaken) as caught:
        run(tmp_path, small, parts=["receiver"], times=replace(TIMES, recovery=3), BACKEND="local")
    assert re.fullmatch(
        r"The receiver did not get its port \d+ back within 3 s: another program has it\.", str(caught.value)
    )
    assert "--port" in caught.value.hint
    assert thief.tries > 3


def test_whoever_a_silent_receiver_holds_is_let_go_at_its_end() -> None:
    with Receiver("127.0.0.1", 0, secret="") as receiver:
        receiver.turn(Behaviour.SILENT)
        ends: list[Exception] = []

        def wait() -> None:
            try:
                post(receiver, timeout=20)
            except OSError as error:
                ends.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: receiver.holds, what="the callback to be held")
    thread.join(5)
    assert [type(error) for error in ends] == [RemoteDisconnected]


# ------------------------------------------------------------------ the count


def task(number: int, *, accepted: float = 0, ended: float | None = 1, status: str = "SUCCESS") -> SentTask:
    return SentTask(number=number, task_id=f"task-{number}", accepted=accepted, ended=ended, status=status)


def arrival(number: int, *, when: float = 2, task_id: str | None = None) -> DrillCallback:
    return DrillCallback(when=when, number=number, task_id=task_id or f"task-{number}")


def counted(
    tasks: list[SentTask], arrivals: list[DrillCallback], *outages: Outage, interrupted: bool = False
) -> DrillReport:
    return count(
        tasks=tasks,
        arrivals=arrivals,
        outages=outages,
        refused={},
        wanted=len(tasks),
        seconds=9,
        interrupted=interrupted,
    )


def test_lost_is_what_was_cancelled_or_never_ended_or_never_called_back() -> None:
    tasks = [
        task(1),
        task(2, ended=None, status="STARTED"),
        task(3, status="REVOKED"),
        task(4),
        task(5, status="FAILURE"),
    ]
    figures = counted(tasks, [arrival(number) for number in (1, 2, 3, 5)])
    assert figures.lost == ["task-2", "task-3", "task-4"]
    assert (figures.completed, figures.failed, figures.called_back) == (3, 1, 4)


def test_what_is_still_under_way_at_an_interrupt_is_not_lost() -> None:
    tasks = [
        task(1),
        task(2, ended=None, status="STARTED"),
        task(3),
        replace(task(4), settled=True),
        replace(task(5, status="REVOKED"), settled=True),
        replace(task(6, ended=None, status="PENDING"), gone=True),
    ]
    figures = counted(tasks, [arrival(1)], interrupted=True)
    assert figures.not_through == ["task-2", "task-3"]
    assert figures.lost == ["task-4", "task-5", "task-6"]
    figures = counted(tasks, [arrival(1)])
    assert (figures.not_through, len(figures.lost)) == ([], 5)


def test_a_callback_for_a_request_whose_answer_is_still_out_is_no_second_task() -> None:
    assert counted([task(1)], [arrival(1), arrival(2)]).made_twice == []
    assert counted([task(1)], [arrival(1), arrival(1, task_id="task-x")]).made_twice == ["task-x"]


def test_the_slowest_recovery_of_a_part_stands() -> None:
    outages = [Outage(part="api", began=began, over=over) for began, over in ((10, 11), (20, 25), (30, 32))]
    figures = counted([], [], *outages)
    assert [(part.killed, part.recovered) for part in figures.parts] == [(3, 5)]
    assert counted([], [], *outages, Outage(part="api", began=40, over=None)).parts[0].recovered is None


def test_caught_up_is_a_part_when_what_was_accepted_before_is_done() -> None:
    tasks = [task(1, ended=9), task(2, accepted=5, ended=14), task(3, accepted=11, ended=90), task(4, ended=None)]
    assert counted(tasks, [], Outage(part="denzel", began=10, over=11)).parts[0].caught_up == 4
    assert counted(tasks[:1], [], Outage(part="denzel", began=10, over=11)).parts[0].caught_up is None


def test_caught_up_is_a_receiver_when_it_has_the_callbacks_it_missed() -> None:
    arrivals = [arrival(1, when=3), arrival(1, when=80), arrival(2, when=17), arrival(3, when=60)]
    tasks = [task(1), task(2), task(3, accepted=11)]
    outage = Outage(part="receiver (closed)", began=10, over=11, of_receiver=True)
    assert counted(tasks, arrivals, outage).parts[0].caught_up == 7


# ------------------------------------------------------------------ the command


@pytest.fixture
def small() -> Iterator[SmallProject]:
    with small_project() as small:
        yield small


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: SmallProject) -> Iterator[SmallBackend]:
    """A launched project that is the current folder; its drills are in a hurry."""
    monkeypatch.setattr(drill_room, "TIMES", TIMES)
    with launched(tmp_path, small, BACKEND="local") as (project, backend):
        monkeypatch.setattr(cli, "open_backend", lambda *_: backend)
        enter(project.root, monkeypatch)
        yield backend


def denzel(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli.main, ["drill", *arguments], input=stdin)


def test_the_command_prints_its_table(here: SmallBackend, small: SmallProject) -> None:
    result = denzel("--tasks", "30", "--kill", "api,monitor", "--yes")
    assert result.exit_code == 0, result.output
    assert small.killed == ["api", "monitor"]
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[:2] == ["Sending a first request ...", "Killing api ..."]
    assert re.fullmatch(r"recovered in \d+\.\d s", lines[2])
    for line in ("REQUESTS 30", "accepted 30", "completed 30", "called back 30", "called back twice 0", "lost 0"):
        assert line in lines
    assert re.search(r"^slowest recovery \d+\.\d s$", "\n".join(lines), re.MULTILINE)
    assert re.search(r"^refused \(no connection\) \d+$", "\n".join(lines), re.MULTILINE)
    assert "PART KILLED RECOVERED IN CAUGHT UP IN" in lines
    assert re.search(r"^monitor 1 \d+\.\d s (-|\d+\.\d s)$", "\n".join(lines), re.MULTILINE)


def test_the_figures_as_data(here: SmallBackend) -> None:
    result = denzel("--tasks", "20", "--kill", "redis", "--json", "--yes")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["tasks"], figures["accepted"], figures["lost"], figures["interrupted"]) == (20, 20, [], False)
    assert figures["slowest_recovery"] == figures["parts"][0]["recovered"] > 0
    assert figures["refused"]["503"] > 0
    assert "Killing redis" in result.stderr


def test_a_loss_is_exit_code_1(here: SmallBackend, small: SmallProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_room, "TIMES", GIVING_UP)
    small.faults.never_call_back = 1
    result = denzel("--tasks", "10", "--kill", "monitor", "--yes")
    assert result.exit_code == 1
    assert re.search(r"^lost +1$", result.stdout, re.MULTILINE)
    assert "Error: Accepted tasks were lost, 1 of 10: " in result.stderr
    assert "Hint: " in result.stderr


def test_it_asks_before_it_kills(here: SmallBackend, small: SmallProject) -> None:
    result = denzel("--tasks", "50", stdin="n\n")
    assert result.exit_code == 1
    assert "This kills services of iris, and sends it 50 requests." in result.stdout
    assert "Nothing was killed." in result.stdout
    assert (small.killed, small.accepted) == ([], {})


def test_it_goes_on_after_a_yes(here: SmallBackend, small: SmallProject) -> None:
    assert denzel("--tasks", "9", "--kill", "monitor", stdin="y\n").exit_code == 0
    assert small.killed == ["monitor"]


@pytest.mark.parametrize("parts", ["worker,web", "", "worker,"])
def test_parts_that_do_not_exist_are_wrong_usage(here: SmallBackend, parts: str) -> None:
    result = denzel("--kill", parts, "--yes")
    assert result.exit_code == 2
    assert "is not one of worker, denzel, api, monitor, redis, receiver." in result.stderr


def test_too_few_tasks_for_the_parts_are_wrong_usage(here: SmallBackend) -> None:
    result = denzel("--tasks", "36", "--yes")
    assert result.exit_code == 2
    assert "Error: 36 tasks are too few to see each part recover. Pass --tasks 37 or more" in result.stderr
    assert "Go on?" not in result.stdout


@pytest.mark.parametrize(("parts", "fewest"), [(["api"], 9), (["api", "api"], 13), (["receiver", "worker"], 21)])
def test_too_few_tasks_are_refused_before_anything_is_sent(tmp_path: Path, parts: list[str], fewest: int) -> None:
    with small_project() as small, pytest.raises(TooFewTasks) as caught:
        run(tmp_path, small, tasks=fewest - 1, parts=parts)
    assert str(caught.value) == f"{fewest - 1} tasks are too few to see each part recover."
    assert caught.value.hint == f"Pass --tasks {fewest} or more, or fewer parts with --kill."
    assert (small.killed, small.bodies) == ([], [])


@pytest.mark.parametrize(
    ("parts", "back_at_once"),
    [(["api"], False), (["monitor", "redis", "monitor"], False), (["api", "monitor"], True), (["receiver"], False)],
)
def test_requests_are_sent_before_during_and_after_each_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str], back_at_once: bool
) -> None:
    events: list[str] = []

    class Noting(Load):
        def send(self, count: int) -> None:
            events.extend(["request"] * count)
            super().send(count)

    monkeypatch.setattr(drill_room, "Load", Noting)
    monkeypatch.setattr(Noted, "doing", lambda self, text: events.append(text))
    monkeypatch.setattr(Noted, "note", lambda self, text: events.append(text.strip().partition(" in ")[0]))
    fewest = drill_room.fewest_tasks(parts)
    with small_project() as small:
        small.is_back_at_once |= set(Service) if back_at_once else set()
        check(run(tmp_path, small, tasks=fewest, parts=parts))
    assert events.count("request") == fewest
    told = [event for event in events if event != "request"]
    outages = [event for event in told if event.startswith(("Killing", "The receiver"))]
    assert told.count("recovered") == len(outages) == (3 if parts == ["receiver"] else len(parts))
    # What stands at both sides of every event is a request: each outage has one before it, within it, and after it.
    for number, event in enumerate(events):
        if event in ("recovered", *outages):
            assert (events[number - 1], events[number + 1]) == ("request", "request"), events


@pytest.mark.parametrize("parts", [["api"], ["worker", "denzel", "api", "redis"], ["receiver"]])
def test_the_fewest_tasks_are_enough_to_see_each_recovery(tmp_path: Path, parts: list[str]) -> None:
    with small_project() as small:
        figures = run(tmp_path, small, tasks=drill_room.fewest_tasks(parts), parts=parts)
    assert all(part.recovered is not None for part in figures.parts)
    check(figures)


def test_another_file_is_read(here: SmallBackend, small: SmallProject, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"data": "mine"}')
    assert denzel("--file", str(tmp_path / "mine.json"), "--tasks", "9", "--kill", "monitor", "--yes").exit_code == 0
    assert {body["data"] for body in small.bodies} == {"mine"}


def test_a_file_that_is_missing_is_said_before_anything_is_asked(here: SmallBackend) -> None:
    result = denzel("--file", "missing.json")
    assert result.exit_code == 1
    assert "Error: missing.json cannot be read: No such file or directory." in result.stderr
    assert "Go on?" not in result.stdout


def interrupted(here: SmallBackend, small: SmallProject, *options: str) -> Result:
    """A drill of a project in which nothing ends but the first task, until Ctrl-C at the first kill.

    It is raised in the drill's own thread: one that comes while Python frees an object would be lost.
    """
    kill = here.kill

    def kill_and_interrupt(service: Service) -> None:
        kill(service)
        until(lambda: len(small.accepted) > 5, what="requests")
        signal.raise_signal(signal.SIGINT)

    small.faults.never_end = 1000
    here.kill = kill_and_interrupt  # type: ignore[method-assign]
    result = denzel("--tasks", "1000", "--kill", "monitor,api,redis", "--yes", *options)
    assert result.exit_code == 1
    assert "Interrupted." in result.stderr
    assert "Error:" not in result.stderr
    return result


def test_ctrl_c_shows_how_far_it_came(here: SmallBackend, small: SmallProject) -> None:
    rows = dict(re.findall(r"^([a-z ]+?)  +(\d+)$", interrupted(here, small).stdout, re.MULTILINE))
    assert int(rows["accepted"]) > 4
    assert (rows["completed"], rows["called back"], rows["lost"]) == ("1", "1", "0")
    assert int(rows["not through yet"]) == int(rows["accepted"]) - 1


def test_ctrl_c_is_told_in_the_data(here: SmallBackend, small: SmallProject) -> None:
    figures = json.loads(interrupted(here, small, "--json").stdout)
    assert (figures["interrupted"], figures["completed"], figures["lost"]) == (True, 1, [])
    assert len(set(figures["not_through"])) == figures["accepted"] - 1 > 3
    assert set(figures["not_through"]) < set(small.accepted)


def test_a_project_that_is_not_launched_is_not_drilled(here: SmallBackend) -> None:
    here.machine.services.clear()
    result = denzel("--yes")
    assert result.exit_code == 1
    assert "Error: The project is not launched." in result.stderr
