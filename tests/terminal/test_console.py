"""Terminal output, as the user sees it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.command import NAME, status

from denzel.backends.base import BuildStep
from denzel.errors import CommandFailed, DenzelError
from denzel.project import dotenv
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import State
from denzel.terminal import console
from denzel.webhooks.listener import ReceivedCallback


def test_status_is_shown_as_the_manual_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    console.shown_status(status())
    assert capsys.readouterr().out == (
        "Services:\n"
        "    denzel - UP\n"
        "    monitor - UP [ Port: 5555 ]\n"
        "    api - UP [ Port: 8000 ]\n"
        "    redis - UP\n"
        "Worker: worker@iris - UP\n"
    )


def test_status_of_a_loading_worker_names_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    console.shown_status(status(State.LOADING))
    assert capsys.readouterr().out.splitlines()[-1] == "Worker: all - LOADING..."


def test_status_of_a_failing_worker_has_the_cause(capsys: pytest.CaptureFixture[str]) -> None:
    console.shown_status(status(State.ERROR, cause="ValueError: no model"))
    assert capsys.readouterr().out.splitlines()[-1] == "Worker: worker@iris - ERROR [ ValueError: no model ]"


def test_status_names_the_port_of_what_is_up_only(capsys: pytest.CaptureFixture[str]) -> None:
    states = (State.INSTALLING_PIP, State.INSTALLING_OS, State.STARTING, State.ERROR, State.DOWN)
    for state in states:
        console.shown_status(status(api=state))
    shown = [line for line in capsys.readouterr().out.splitlines() if "api" in line]
    assert shown == [
        "    api - PIP INSTALLING...",
        "    api - OS COMMANDS...",
        "    api - STARTING...",
        "    api - ERROR",
        "    api - DOWN",
    ]


def test_status_as_json_has_what_the_text_has(capsys: pytest.CaptureFixture[str]) -> None:
    console.shown_status_json(status(State.ERROR, cause="ValueError: no", redis=State.STARTING))
    assert json.loads(capsys.readouterr().out) == {
        "launched": True,
        "ready": False,
        "services": {
            "denzel": {"state": "UP"},
            "monitor": {"state": "UP", "port": 5555},
            "api": {"state": "UP", "port": 8000},
            "redis": {"state": "STARTING..."},
        },
        "workers": [{"name": NAME, "state": "ERROR", "cause": "ValueError: no"}],
    }


def test_status_as_json_before_the_launch(capsys: pytest.CaptureFixture[str]) -> None:
    console.shown_status_json(None)
    assert json.loads(capsys.readouterr().out) == {"launched": False}


def test_live_status_in_a_file_is_printed_when_it_changes(capsys: pytest.CaptureFixture[str]) -> None:
    console.shown_live_status([status(), status(), status(api=State.DOWN), status(api=State.DOWN)])
    shown = capsys.readouterr().out
    assert shown.count("Services:") == 2
    assert "\033[" not in shown


def test_live_status_on_a_screen_takes_the_place_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    console.shown_live_status([status(), status(api=State.DOWN)])
    assert screen.getvalue().count("\033[6A\033[J") == 1


def test_an_interrupt_ends_a_live_view_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> object:
        yield "line"
        raise KeyboardInterrupt

    console.lines(interrupted())  # type: ignore[arg-type]
    assert capsys.readouterr().out == "line\n\n"


def test_an_error_is_its_message_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    console.error(DenzelError("Port 8000 is already taken.", hint="Pass another one with --api-port."))
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err == "Error: Port 8000 is already taken.\nHint: Pass another one with --api-port.\n"


def test_an_error_comes_after_its_detail(capsys: pytest.CaptureFixture[str]) -> None:
    console.error(CommandFailed(["docker", "compose", "up"], 1, "no space left on device\n"))
    assert capsys.readouterr().err == (
        "no space left on device\n\n"
        "Error: docker compose up failed with exit code 1.\n"
        "Hint: Fix the cause, shown above, then repeat the command.\n"
    )


def test_a_new_project_has_a_next_step_for_each_backend(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    console.scaffolded(project)
    assert capsys.readouterr().out == (
        "Successfully built iris project skeleton\n"
        "Next: cd iris, edit app/logic/pipeline.py, then\n"
        "    denzel launch                  (with Docker)\n"
        "    denzel launch --backend local  (without)\n"
    )


def test_a_launch_prints_the_addresses(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    console.launched(dotenv.load(project.env_file, {}))
    console.launched(dotenv.load(project.env_file, {"API_HOST": "192.0.2.1", "MONITOR_HOST": "0.0.0.0"}))
    addresses = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert addresses == [
        "http://localhost:8000/info",
        "http://localhost:5555",
        "http://192.0.2.1:8000/info",
        "http://localhost:5555",
    ]


def test_progress_prints_each_step_and_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = console.ProgressPrinter()
    progress.doing("Installing the requirements")
    for _ in range(2):
        progress.on_step(BuildStep(state=State.INSTALLING_OS, text="4/8 RUN bash requirements.sh"))
    progress.doing("Starting the services")
    progress.on_status(status(State.LOADING, api=State.STARTING))
    progress.on_status(status(State.LOADING))
    progress.on_status(status())
    assert capsys.readouterr().out == (
        "Installing the requirements ...\n"
        "    4/8 RUN bash requirements.sh\n"
        "Starting the services ...\n"
        "    denzel - UP\n"
        "    monitor - UP [ Port: 5555 ]\n"
        "    api - STARTING...\n"
        "    redis - UP\n"
        "Worker: all - LOADING...\n"
        "    api - UP [ Port: 8000 ]\n"
        "Worker: worker@iris - UP\n"
    )


def test_warnings_of_the_model_are_shown_when_it_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    progress = console.ProgressPrinter()
    progress.on_status(status(State.LOADING))
    warned = replace(status().worker, warnings=("UserWarning: old", "x: \x1b[2J"), more_warnings=3)
    for _ in range(2):
        progress.on_status(replace(status(), worker=warned))
    assert capsys.readouterr().out.splitlines()[-5:] == [
        "Worker: worker@iris - UP",
        "load_model warned:",
        "    UserWarning: old",
        "    x: \\x1b[2J",
        "    and 3 more: denzel logworker",
    ]
    console.shown_status_json(replace(status(), worker=warned))
    assert json.loads(capsys.readouterr().out)["workers"][0]["warnings"] == ["UserWarning: old", "x: \x1b[2J"]


def test_control_characters_from_outside_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    arrived = {"path": "/\033[2J", "webhook_id": "\033c", "signed": True, "fault": "\033c"}
    for body in (b"\033[2J\xff", b'{"a": "\xc2\x9b\\ud800"}', b"[" * 100_000):
        console.received([ReceivedCallback(when=0, repeated=False, body=body, **arrived)])  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert "(not JSON) \\x1b[2J\\xff\n" in shown
    assert '{"a": "\\x9b\\ud800"}\n' in shown
    assert not any(letter in shown for letter in "\033\x9b")
    console.error(DenzelError("Lost: \033[2J", hint="Look."))
    assert capsys.readouterr().err == "Error: Lost: \\x1b[2J\nHint: Look.\n"


def body_shown(body: bytes, capsys: pytest.CaptureFixture[str]) -> str:
    console.received(
        [ReceivedCallback(when=0, path="/", webhook_id="", signed=False, fault="", repeated=False, body=body)]
    )
    return capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", "(empty)"),
        (b"{}", "{}"),
        (b"a=1&b=2", "(not JSON) a=1&b=2"),
        (b'{"a": 1', '(not JSON) {"a": 1'),
        (b"one\ntwo", r"(not JSON) one\ntwo"),
        (b"\x00\x89PNG\r\n", r"(not JSON) \x00\x89PNG\r\n"),
        ("ü".encode("utf-16"), r"(not JSON) \xff\xfe\xfc\x00"),
        (b"\x00" * 600, r"(not JSON) " + r"\x00" * 500 + "... (600 bytes)"),
        (b"9" * 5000, "(not JSON) " + "9" * 500 + "... (5000 bytes)"),
        (b"[" + b"1, " * 400 + b"1]", "[" + "1, " * 400 + "1]"),
    ],
    ids=range(10),
)
def test_a_body_is_shown_in_one_readable_line(body: bytes, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert body_shown(body, capsys) == shown


def test_a_character_that_the_terminal_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr("sys.stdout", screen)
    console.received(
        [ReceivedCallback(when=0, path="/", webhook_id="", signed=False, fault="", repeated=False, body=b'"\xc3\xbc"')]
    )
    screen.seek(0)
    assert screen.read().splitlines()[-1] == r'"\xfc"'


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return start_project("iris", tmp_path)
