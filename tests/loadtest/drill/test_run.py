"""The drill: its requests, faults, report and end."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from doubles.small_project import Faults, HiddenProgress, SmallBackend, SmallProject, launched, small_project
from support.waiting import until
from support.whsec import SECRET

from denzel import cli
from denzel.errors import DrillFailed, PortTaken, RequestUnusable, ServiceFailed, ServiceNotRunning, TooFewTasks
from denzel.lifecycle.status import read_status
from denzel.loadtest.drill import run as drill_run
from denzel.loadtest.drill.results import PARTS, DrillReport
from denzel.loadtest.drill.run import DrillTimings, drill
from denzel.loadtest.load import LoadGenerator
from denzel.project import dotenv
from denzel.services import Service, State
from denzel.webhooks.receiver import Behaviour, Receiver

#: Short, but for what may be late on a slow machine.
TIMINGS = DrillTimings(phase=0.05, receiver_outage=0.1, idle_timeout=30, api_interval=0.02, poll_interval=0.01)

#: For what never comes.
GIVING_UP = replace(TIMINGS, idle_timeout=1.5)


def run(
    folder: Path,
    small: SmallProject,
    *,
    requests: Sequence[Mapping[str, Any]] = ({"data": {}},),
    tasks: int = 40,
    parts: Sequence[str] = ("api",),
    timings: DrillTimings = TIMINGS,
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
            read_status=lambda: read_status(project, backend, name="iris"),
            progress=HiddenProgress(),
            timings=timings,
        )


# ------------------------------------------------------------------ a project that loses nothing


def test_every_part_is_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    with small_project(secret=SECRET) as small:
        report = run(tmp_path, small, tasks=120, parts=PARTS)
    assert small.killed[1:] == ["denzel", "api", "monitor", "redis"]
    assert re.fullmatch(r"process 1[12]", small.killed[0])
    assert (report.accepted, report.completed, report.called_back) == (120, 120, 120)
    assert (report.lost, report.made_twice, report.bad_signatures, report.failed) == ([], [], 0, 0)
    assert [(part.part, part.killed) for part in report.parts] == [
        *((part, 1) for part in ("worker", "denzel", "api", "monitor", "redis")),
        *((f"receiver ({behaviour})", 1) for behaviour in ("slow", "answers 500", "silent", "closed")),
    ]
    assert all(part.recovered is not None for part in report.parts)
    assert report.slowest_recovery == max(part.recovered or 0 for part in report.parts)
    assert report.refused["503"] > 0
    assert report.refused["no connection"] > 0
    report.raise_for_failure()


def test_requests_are_sent_in_turn_each_with_its_own_callback_uri(tmp_path: Path) -> None:
    requests = [{"data": {"a": 1}, "callback_uri": "http://elsewhere.example/"}, {"data": {"b": 2}}]
    with small_project() as small:
        run(tmp_path, small, requests=requests, tasks=10, parts=["monitor"], BACKEND="local")
    assert [body["data"] for body in small.bodies].count({"a": 1}) == 5
    assert [body["data"] for body in small.bodies].count({"b": 2}) == 5
    addresses = {body["callback_uri"] for body in small.bodies}
    assert len(addresses) == 10
    assert all(re.fullmatch(r"http://127\.0\.0\.1:\d+/[0-9a-f]+/\d+", address) for address in addresses)
    assert small.prefer_headers == {"respond-async"}


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
        report = run(tmp_path, small, parts=["worker", "worker"])
    assert [(part.part, part.killed) for part in report.parts] == [("worker", 2)]


def test_a_lost_response_leads_to_no_second_task(tmp_path: Path) -> None:
    with small_project(Faults(drop_responses=5)) as small:
        report = run(tmp_path, small)
    assert len(small.accepted) == report.accepted == 40
    assert report.refused["no connection"] >= 5
    assert (report.lost, report.made_twice) == ([], [])


# ------------------------------------------------------------------ a project that does


def failure_of(report: DrillReport) -> str:
    with pytest.raises(DrillFailed) as caught:
        report.raise_for_failure()
    return str(caught.value)


@pytest.mark.parametrize("fault", ["never_end", "never_call_back", "forget"])
def test_a_task_without_an_end_or_a_callback_is_lost(tmp_path: Path, fault: str) -> None:
    with small_project(Faults(**{fault: 3})) as small:
        report = run(tmp_path, small, timings=GIVING_UP)
    assert len(report.lost) == 3
    assert report.completed == (40 if fault == "never_call_back" else 37)
    assert report.called_back == 37
    assert failure_of(report) == f"Accepted tasks were lost, 3 of 40: {', '.join(report.lost)}."


def test_repeated_callbacks_are_counted_and_no_failure(tmp_path: Path) -> None:
    with small_project(Faults(call_back_twice=4)) as small:
        report = run(tmp_path, small)
    assert (report.called_back, report.called_back_twice, report.lost) == (40, 4, [])
    report.raise_for_failure()


def test_failed_tasks_count_as_completed(tmp_path: Path) -> None:
    with small_project(Faults(fail=2)) as small:
        report = run(tmp_path, small)
    assert (report.completed, report.failed, report.failure, report.lost) == (40, 2, "no", [])
    report.raise_for_failure()


def test_bad_signatures_fail_the_drill(tmp_path: Path) -> None:
    with small_project(Faults(sign_badly=2), secret=SECRET) as small:
        report = run(tmp_path, small)
    assert report.bad_signatures == 2
    assert failure_of(report).startswith("Callbacks had a bad signature, 2: it was made with a secret other than")


def test_a_request_that_leads_to_two_tasks_fails_the_drill(tmp_path: Path) -> None:
    with small_project(Faults(drop_responses=2, make_twice=2)) as small:
        report = run(tmp_path, small)
    assert report.lost == []
    assert len(report.made_twice) == 2
    assert failure_of(report).startswith("Requests were made into a second task, 2: ")


def test_a_part_that_does_not_recover_fails_the_drill(tmp_path: Path) -> None:
    with small_project(down={Service.MONITOR}) as small:
        report = run(tmp_path, small, tasks=10, parts=["monitor"], timings=replace(TIMINGS, recovery_timeout=0.1))
    assert report.parts[0].recovered is None
    assert report.slowest_recovery is None
    assert failure_of(report) == "monitor did not recover."


def test_an_api_that_never_accepts_fails_the_drill(tmp_path: Path) -> None:
    with small_project(Faults(answer=(503, {"title": "The queue is full"}))) as small:
        report = run(tmp_path, small, tasks=10, parts=["monitor"], timings=GIVING_UP)
    assert (report.accepted, report.lost) == (1, [])
    assert report.refused["503"] > 9
    assert failure_of(report) == "Requests were never accepted, 9 of 10."


# ------------------------------------------------------------------ drills that cannot begin


def test_a_request_that_the_api_refuses_ends_the_drill(tmp_path: Path) -> None:
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
    """As does the example of a new project, on a pipeline that requires more."""
    with small_project(Faults(fail_first="no\nsepal-length.")) as small, pytest.raises(RequestUnusable) as caught:
        run(tmp_path, small)
    assert str(caught.value) == "The first request failed: no sepal-length."
    assert "app/assets/example.json" in caught.value.hint
    assert "--file" in caught.value.hint
    assert (len(small.bodies), small.killed) == (1, [])


def test_a_first_task_that_does_not_end_ends_the_drill(tmp_path: Path) -> None:
    said = r"The first task did not end within 0 s\."
    with small_project(down={Service.DENZEL}) as small, pytest.raises(ServiceFailed, match=said):
        run(tmp_path, small, timings=replace(TIMINGS, first_task_timeout=0.2))


def test_a_receiver_that_no_callback_reaches_ends_the_drill(tmp_path: Path) -> None:
    said = r"No callback came to http://.*/0+ within 0 s\."
    with small_project(Faults(unreachable=True)) as small, pytest.raises(ServiceFailed, match=said):
        run(tmp_path, small, timings=replace(TIMINGS, first_task_timeout=0.2))


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
                read_status=lambda: read_status(project, backend, name="iris"),
                progress=HiddenProgress(),
            )
        assert small.accepted == {}


# ------------------------------------------------------------------ a receiver whose port is taken


class Thief:
    """Takes the port of a receiver that is down, and releases it at the third attempt, unless it `keeps` it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.socket: socket.socket | None = None
        self.tries = 0
        set_behaviour = Receiver.set_behaviour

        async def watched(receiver: Receiver, behaviour: Behaviour) -> None:
            if self.socket is not None and behaviour is Behaviour.ACCEPT:
                self.tries += 1
                if self.tries == 3 and not self.keeps:
                    self.give_back()
            await set_behaviour(receiver, behaviour)
            if behaviour is Behaviour.DOWN:
                self.socket = socket.create_server(("127.0.0.1", receiver.port))

        self.keeps = False
        monkeypatch.setattr(Receiver, "set_behaviour", watched)

    def give_back(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


@pytest.fixture
def thief(monkeypatch: pytest.MonkeyPatch) -> Iterator[Thief]:
    thief = Thief(monkeypatch)
    yield thief
    thief.give_back()


def test_the_drill_waits_for_a_port_that_is_taken_while_the_receiver_is_down(tmp_path: Path, thief: Thief) -> None:
    with small_project() as small:
        report = run(tmp_path, small, parts=["receiver"], BACKEND="local")
    assert thief.tries == 3
    assert report.parts[-1].part == "receiver (closed)"
    report.raise_for_failure()


def test_a_port_that_remains_taken_ends_the_drill(tmp_path: Path, thief: Thief) -> None:
    thief.keeps = True
    with small_project() as small, pytest.raises(PortTaken) as caught:
        run(tmp_path, small, parts=["receiver"], timings=replace(TIMINGS, recovery_timeout=3), BACKEND="local")
    assert re.fullmatch(
        r"The receiver did not get its port \d+ back within 3 s: another program has it\.", str(caught.value)
    )
    assert "--port" in caught.value.hint
    assert thief.tries > 3


# ------------------------------------------------------------------ the command


@pytest.fixture(autouse=True)
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_run, "DRILL_TIMINGS", TIMINGS)


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


def test_the_report_as_json(here: SmallBackend) -> None:
    result = denzel("--tasks", "20", "--kill", "redis", "--json", "--yes")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["tasks"], report["accepted"], report["lost"], report["interrupted"]) == (20, 20, [], False)
    assert report["slowest_recovery"] == report["parts"][0]["recovered"] > 0
    assert report["refused"]["503"] > 0
    assert "Killing redis" in result.stderr


def test_a_loss_is_exit_code_1(here: SmallBackend, small: SmallProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_run, "DRILL_TIMINGS", GIVING_UP)
    small.faults.never_call_back = 1
    result = denzel("--tasks", "10", "--kill", "monitor", "--yes")
    assert result.exit_code == 1
    assert re.search(r"^lost +1$", result.stdout, re.MULTILINE)
    assert "Error: Accepted tasks were lost, 1 of 10: " in result.stderr
    assert "Hint: " in result.stderr


def test_it_asks_before_it_kills(here: SmallBackend, small: SmallProject) -> None:
    result = denzel("--tasks", "50", stdin="n\n")
    assert result.exit_code == 1
    assert "This kills services of iris and sends it 50 requests." in result.stdout
    assert "Nothing was killed." in result.stdout
    assert (small.killed, small.accepted) == ([], {})


def test_it_kills_after_a_yes(here: SmallBackend, small: SmallProject) -> None:
    assert denzel("--tasks", "9", "--kill", "monitor", stdin="y\n").exit_code == 0
    assert small.killed == ["monitor"]


@pytest.mark.parametrize("parts", ["worker,web", "", "worker,"])
def test_parts_that_do_not_exist_are_wrong_usage(here: SmallBackend, parts: str) -> None:
    result = denzel("--kill", parts, "--yes")
    assert result.exit_code == 2
    assert "is not one of worker, denzel, api, monitor, redis, receiver." in result.stderr


def test_too_few_tasks_for_the_parts_are_wrong_usage(here: SmallBackend) -> None:
    result = denzel("--tasks", "40", "--yes")
    assert result.exit_code == 2
    assert "Error: 40 tasks are too few to see each part recover. Pass --tasks 41 or more" in result.stderr
    assert "Continue?" not in result.stdout


@pytest.mark.parametrize(("parts", "fewest"), [(["api"], 9), (["api", "api"], 13), (["receiver", "worker"], 25)])
def test_too_few_tasks_are_refused_before_anything_is_sent(tmp_path: Path, parts: list[str], fewest: int) -> None:
    with small_project() as small, pytest.raises(TooFewTasks) as caught:
        run(tmp_path, small, tasks=fewest - 1, parts=parts)
    assert str(caught.value) == f"{fewest - 1} tasks are too few to see each part recover."
    assert caught.value.hint == f"Pass --tasks {fewest} or more, or fewer parts with --kill."
    assert (small.killed, small.bodies) == ([], [])


@pytest.mark.parametrize(
    ("parts", "at_once"),
    [(["api"], False), (["monitor", "redis", "monitor"], False), (["api", "monitor"], True), (["receiver"], False)],
)
def test_requests_are_sent_before_during_and_after_each_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str], at_once: bool
) -> None:
    events: list[str] = []

    class Noting(LoadGenerator):
        def send(self, count: int) -> None:
            events.extend(["request"] * count)
            super().send(count)

    monkeypatch.setattr(drill_run, "LoadGenerator", Noting)
    monkeypatch.setattr(HiddenProgress, "doing", lambda self, text: events.append(text))
    monkeypatch.setattr(HiddenProgress, "note", lambda self, text: events.append(text.strip().partition(" in ")[0]))
    fewest = drill_run.min_tasks(parts)
    with small_project() as small:
        small.recovers_at_once |= set(Service) if at_once else set()
        run(tmp_path, small, tasks=fewest, parts=parts).raise_for_failure()
    assert events.count("request") == fewest
    steps = [event for event in events if event != "request"]
    outages = [event for event in steps if event.startswith(("Killing", "The receiver"))]
    assert steps.count("recovered") == len(outages) == (4 if parts == ["receiver"] else len(parts))
    # What stands at both sides of every event is a request: each outage has one before it, within it, and after it.
    for number, event in enumerate(events):
        if event in ("recovered", *outages):
            assert (events[number - 1], events[number + 1]) == ("request", "request"), events


@pytest.mark.parametrize("parts", [["api"], ["worker", "denzel", "api", "redis"], ["receiver"]])
def test_the_fewest_tasks_are_enough_to_see_each_recovery(tmp_path: Path, parts: list[str]) -> None:
    with small_project() as small:
        report = run(tmp_path, small, tasks=drill_run.min_tasks(parts), parts=parts)
    assert all(part.recovered is not None for part in report.parts)
    report.raise_for_failure()


def test_another_file_is_read(here: SmallBackend, small: SmallProject, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"data": "mine"}')
    assert denzel("--file", str(tmp_path / "mine.json"), "--tasks", "9", "--kill", "monitor", "--yes").exit_code == 0
    assert {body["data"] for body in small.bodies} == {"mine"}


def test_a_missing_file_is_reported_before_the_question(here: SmallBackend) -> None:
    result = denzel("--file", "missing.json")
    assert result.exit_code == 1
    assert "Error: missing.json cannot be read: No such file or directory." in result.stderr
    assert "Continue?" not in result.stdout


def interrupted(here: SmallBackend, small: SmallProject, *options: str) -> Result:
    """A drill of a project in which only the first task ends, until Ctrl-C at the first kill.

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


def test_ctrl_c_shows_the_report_so_far(here: SmallBackend, small: SmallProject) -> None:
    rows = dict(re.findall(r"^([a-z ]+?)  +(\d+)$", interrupted(here, small).stdout, re.MULTILINE))
    assert int(rows["accepted"]) > 4
    assert (rows["completed"], rows["called back"], rows["lost"]) == ("1", "1", "0")
    assert int(rows["not finished yet"]) == int(rows["accepted"]) - 1


def test_ctrl_c_is_in_the_json_report(here: SmallBackend, small: SmallProject) -> None:
    report = json.loads(interrupted(here, small, "--json").stdout)
    assert (report["interrupted"], report["completed"], report["lost"]) == (True, 1, [])
    assert len(set(report["not_through"])) == report["accepted"] - 1 > 3
    assert set(report["not_through"]) < set(small.accepted)


def test_a_project_that_is_not_launched_is_not_drilled(here: SmallBackend) -> None:
    here.machine.services.clear()
    result = denzel("--yes")
    assert result.exit_code == 1
    assert "Error: The project is not launched." in result.stderr
