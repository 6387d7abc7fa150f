"""The command line: the output and the exit code of each command."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import click
import pytest
from click.testing import CliRunner, Result
from doubles.backend import FakeBackend, Machine
from doubles.event_stream import OUTPUT, STARTED, EventApi
from doubles.receiver import running
from standardwebhooks import Webhook
from support.command import enter
from support.ports import find_free_port
from support.whsec import OTHER_SECRET

from denzel import __version__, cli
from denzel.errors import BackendUnavailable, CommandFailed
from denzel.project import dotenv as settings_file
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import QUEUE_KEY, RESPONSE_KEY, Service, State

MANUAL = {
    *("startproject", "launch", "start", "stop", "restart", "shutdown", "status", "logs", "logworker", "shell"),
    *("updatereqs", "updatepipreqs", "updateosreqs", "response"),
}
BEYOND = {"listen", "watch", "callbacks", "tasks", "drill", "bench"}

# Each command that works inside a project, as it can be typed.
INSIDE = {name: [name] for name in sorted((MANUAL | BEYOND) - {"startproject"})} | {
    "response": ["response", "--sync"],
    "watch": ["watch", "an-id"],
}


class Machines:
    """Opens a FakeBackend where the tool opens a real one; `worker` and the like are set on the next ones to come.

    What exists is on `machine`, or on `local` for the local backend.
    """

    def __init__(self) -> None:
        self.machine = Machine()
        self.local = Machine()
        self.opened: list[FakeBackend] = []
        self.set: dict[str, Any] = {}

    def open(self, project: Project, settings: Settings) -> FakeBackend:
        local = settings.backend == "local"
        backend = FakeBackend(project, settings, self.local if local else self.machine)
        backend.name = settings.backend
        backend.changes_the_machine = local
        for name, value in self.set.items():
            setattr(backend, name, value)
        self.opened.append(backend)
        return backend


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    machines = Machines()
    monkeypatch.setattr(cli, "open_backend", machines.open)
    return machines


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machines: Machines) -> Path:
    """An empty folder that is the current one."""
    enter(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def project(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project; the current folder is one inside it."""
    project = start_project("iris", nowhere)
    ports = {"API_PORT": str(find_free_port()), "MONITOR_PORT": str(find_free_port())}
    settings_file.change(project.env_file, ports)
    monkeypatch.chdir(project.root / "app" / "logic")
    return project


@pytest.fixture
def launched(project: Project, machines: Machines) -> Machines:
    """The machines, with everything of the project up."""
    backend = machines.open(project, settings_file.load(project.env_file, {}))
    backend.build(lambda step: None, stamps={})
    backend.up()
    return machines


def denzel(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli.main, arguments, input=stdin)


def done(*arguments: str, stdin: str = "") -> str:
    """The output of a command that succeeds."""
    result = denzel(*arguments, stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def failed(*arguments: str) -> list[str]:
    """The lines on stderr of a command that ends with an error that the user can act on."""
    result = denzel(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert lines[-2].startswith("Error: ")
    assert lines[-1].startswith("Hint: ")
    return lines


@contextmanager
def in_a_process(folder: Path, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """A command as a process of its own."""
    command = [sys.executable, "-c", "from denzel.cli import main; main()", *arguments]
    pipe, environ = subprocess.PIPE, {**os.environ, **environ}
    with subprocess.Popen(command, cwd=folder, env=environ, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, on which a command ends well."""
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def changed(machine: Machine) -> list[State]:
    return list(machine.services.values())


# ------------------------------------------------------------------ help and usage


def test_every_command_of_the_manual_is_there() -> None:
    assert set(cli.main.commands) == MANUAL | BEYOND


def test_help_has_a_line_for_every_command() -> None:
    shown = done("--help")
    for name in MANUAL | BEYOND:
        assert re.search(rf"^  {name} +\S.*\w", shown, re.MULTILINE), name
    assert "..." not in shown.partition("Commands:")[2]


@pytest.mark.parametrize("name", sorted(MANUAL | BEYOND))
def test_every_command_and_option_has_a_line_of_help(name: str) -> None:
    shown = done(name, "--help")
    assert shown.startswith(f"Usage: main {name} ")
    command = cli.main.commands[name]
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
    if isinstance(command, click.Group):
        for below in command.commands.values():
            assert below.help
            assert all(option.help for option in below.params if isinstance(option, click.Option))


def test_the_short_help_and_the_version() -> None:
    assert done("-h") == done("--help")
    assert done("--version") == f"denzel, version {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["lunch"],
        ["startproject"],
        ["launch", "--port", "1"],
        ["launch", "--api-port", "0"],
        ["launch", "--api-port", "65536"],
        ["launch", "--monitor-port", "http"],
        ["launch", "--backend", "podman"],
        ["updatepipreqs", "--yes"],
        ["logs", "--service", "database"],
        ["shell", "--service", "all"],
        ["response"],
        ["response", "--sync", "--timeout", "-1"],
        ["response", "--sync", "--timeout", "301"],
        ["response", "--sync", "--timeout", "nan"],
        ["startproject", "-x"],
        ["listen", "--port", "0"],
        ["callbacks", "--failed", "--pending"],
        ["callbacks", "resend"],
        ["callbacks", "resend", "--failed", "an-id"],
        ["callbacks", "send"],
        ["callbacks", "--failed", "resend", "an-id"],
        ["callbacks", "--pending", "resend", "an-id"],
        ["callbacks", "--json", "resend", "--failed"],
        ["tasks", "replay"],
        ["tasks", "--quarantined", "replay", "an-id"],
        ["tasks", "--json", "replay", "an-id"],
        ["tasks", "discard"],
        ["tasks", "discard", "--yes"],
        ["tasks", "--quarantined", "discard", "an-id"],
        ["tasks", "--json", "discard", "an-id"],
        ["tasks", "--offset", "0", "discard", "an-id"],
        ["tasks", "--offset", "-1"],
        ["tasks", "--limit", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(project: Project, machines: Machines, arguments: list[str]) -> None:
    result = denzel(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: " in result.stderr
    assert machines.opened == []


# ------------------------------------------------------------------ startproject


def test_startproject_builds_a_project_here(nowhere: Path) -> None:
    assert done("startproject", "iris").startswith("Successfully built iris project skeleton\n")
    assert (nowhere / "iris" / "app" / "logic" / "pipeline.py").is_file()
    assert "nvidia" not in (nowhere / "iris" / "docker-compose.yml").read_text()


def test_startproject_with_gpu(nowhere: Path) -> None:
    done("startproject", "iris", "--gpu")
    assert "nvidia" in (nowhere / "iris" / "docker-compose.yml").read_text()


@pytest.mark.parametrize("name", ["", "a b", "../x", "/tmp/x", "2iris"])
def test_startproject_refuses_a_bad_name(nowhere: Path, name: str) -> None:
    assert repr(name) in failed("startproject", name)[0]
    assert list(nowhere.iterdir()) == []


def test_startproject_refuses_an_existing_folder(nowhere: Path) -> None:
    done("startproject", "iris")
    assert "already exists" in failed("startproject", "iris")[0]


# ------------------------------------------------------------------ where there is nothing to work on


@pytest.mark.parametrize("command", INSIDE.values(), ids=INSIDE)
def test_outside_a_project_the_hint_is_where_to_go(nowhere: Path, machines: Machines, command: list[str]) -> None:
    assert failed(*command) == [
        f"Error: {nowhere} is not inside a denzel project.",
        "Hint: Go to the folder of your project (cd), or make one: denzel startproject NAME",
    ]
    assert machines.opened == []


@pytest.mark.parametrize(
    "command",
    [
        *("start", "stop", "restart", "status", "logs", "updatereqs", "updatepipreqs", "updateosreqs", "shell"),
        *("callbacks", "callbacks resend --failed", "tasks --quarantined", "tasks replay an-id", "tasks discard an-id"),
    ],
)
@pytest.mark.usefixtures("project")
def test_a_command_before_the_launch_is_an_error(machines: Machines, command: str) -> None:
    assert failed(*command.split()) == ["Error: The project is not launched.", "Hint: denzel launch"]
    assert changed(machines.machine) == []


@pytest.mark.usefixtures("project")
def test_other_commands_before_the_launch() -> None:
    assert done("shutdown").endswith("...\nNothing was removed.\n")
    assert json.loads(done("status", "--json")) == {"launched": False}
    assert "no worker log yet" in failed("logworker")[0]
    assert "from the next start on" in done("response", "--sync")


@pytest.mark.parametrize("command", [command for name, command in INSIDE.items() if name != "logworker"], ids=" ".join)
def test_broken_settings_are_an_error_of_every_command(project: Project, command: list[str]) -> None:
    project.env_file.write_text(project.env_file.read_text() + "API_PROT=1\n")
    lines = failed(*command)
    assert "API_PROT" in lines[0]
    assert lines[1] == "Hint: Did you mean API_PORT? What your own code reads belongs into pipeline.env."


@pytest.mark.parametrize(
    "command", [["launch"], ["start"], ["stop"], ["restart"], ["shutdown"], ["updatereqs"]], ids=" ".join
)
def test_a_missing_backend_is_an_error(launched: Machines, command: list[str]) -> None:
    launched.set["failures"] = {
        "check": BackendUnavailable("No engine.", hint="Start it.", detail="dial unix: refused")
    }
    assert failed(*command) == ["dial unix: refused", "", "Error: No engine.", "Hint: Start it."]
    assert set(changed(launched.machine)) == {State.UP}


def test_an_unforeseen_exception_keeps_its_traceback(launched: Machines) -> None:
    launched.set["failures"] = {"stop": ZeroDivisionError("unforeseen")}
    result = denzel("stop")
    assert isinstance(result.exception, ZeroDivisionError)


# ------------------------------------------------------------------ the life of a project


def test_launch_prints_its_progress_and_the_addresses(project: Project, machines: Machines) -> None:
    api_port, monitor_port = find_free_port(), find_free_port()
    assert done("launch", "--api-port", str(api_port), "--monitor-port", str(monitor_port)) == (
        "Installing the requirements ...\n"
        "    1/2 requirements.sh\n"
        "    2/2 requirements.txt\n"
        "Starting the services ...\n"
        "    denzel - UP\n"
        f"    monitor - UP [ Port: {monitor_port} ]\n"
        f"    api - UP [ Port: {api_port} ]\n"
        "    redis - UP\n"
        "Worker: worker@iris - UP\n"
        f"API:       http://localhost:{api_port}/info\n"
        f"Dashboard: http://localhost:{monitor_port}\n"
    )
    stored = settings_file.read(project.env_file)
    assert (stored["API_PORT"], stored["MONITOR_PORT"]) == (str(api_port), str(monitor_port))


@pytest.mark.usefixtures("project")
def test_launch_without_waiting_returns_while_the_model_loads(machines: Machines) -> None:
    machines.set["worker"] = {"state": "LOADING", "cause": ""}
    assert "LOADING" not in done("launch", "--no-wait")
    assert "Worker: all - LOADING..." in done("status")


@pytest.mark.usefixtures("project")
def test_launch_shows_why_the_model_does_not_load(machines: Machines) -> None:
    machines.set["worker"] = {"state": "ERROR", "cause": "FileNotFoundError: iris.pkl"}
    lines = failed("launch")
    assert "denzel-1  | denzel begins" in lines
    assert lines[-2] == "Error: The model could not be loaded: FileNotFoundError: iris.pkl."


def test_launch_without_settings_names_where_to_get_them(project: Project, machines: Machines) -> None:
    project.env_file.unlink()
    lines = failed("launch")
    assert str(project.env_file) in lines[0]
    assert "denzel startproject NAME" in lines[1]
    assert not project.env_file.exists()
    assert machines.opened == []


@pytest.mark.usefixtures("project")
def test_the_backend_of_a_launch_is_stored_for_later_commands(project: Project, machines: Machines) -> None:
    done("launch", "--backend", "local")
    assert settings_file.read(project.env_file)["BACKEND"] == "local"
    assert (changed(machines.machine), set(changed(machines.local))) == ([], {State.UP})
    for command in ("status", "logs", "stop", "start", "restart", "updatepipreqs", "shutdown", "launch"):
        done(command)
        assert machines.opened[-1].name == "local", command
    assert changed(machines.machine) == []


@pytest.mark.usefixtures("launched")
def test_launch_on_another_backend_needs_a_shutdown_first() -> None:
    assert failed("launch", "--backend", "local") == [
        "Error: Project already launched, on the docker backend!",
        "Hint: First: denzel shutdown. Then: denzel launch --backend local",
    ]
    done("shutdown")
    done("launch", "--backend", "local")
    assert failed("launch", "--backend", "docker")[0] == "Error: Project already launched, on the local backend!"
    assert failed("launch") == ['Error: Project already launched! Did you mean "denzel start"?', "Hint: denzel start"]


def test_requirements_sh_runs_on_this_machine_with_consent_alone(project: Project, machines: Machines) -> None:
    (project.root / "requirements.sh").write_text("touch /etc/denzel\n")
    assert "requirements.sh is not run" in done("launch", "--backend", "local")
    for command in ("updatereqs", "updateosreqs"):
        assert "requirements.sh would change this machine itself" in failed(command)[0]
        assert machines.local.stamps.get("OS_REQUIREMENTS_UPDATED") is None
    done("updatepipreqs")
    done("updateosreqs", "--yes")
    assert set(machines.local.stamps) == {"OS_REQUIREMENTS_UPDATED"}
    done("updatereqs", "--yes")
    assert set(machines.local.stamps) == {"OS_REQUIREMENTS_UPDATED", "PIP_REQUIREMENTS_UPDATED"}


def test_stop_start_and_restart(launched: Machines) -> None:
    for _ in range(2):
        assert "denzel start" in done("stop")
        assert set(changed(launched.machine)) == {State.DOWN}
    for command in ("start", "start", "restart"):
        assert "Worker: worker@iris - UP\n" in done(command)
        assert set(changed(launched.machine)) == {State.UP}


@pytest.mark.parametrize(
    ("command", "stamped"),
    [
        ("updatereqs", {"OS_REQUIREMENTS_UPDATED", "PIP_REQUIREMENTS_UPDATED"}),
        ("updatepipreqs", {"PIP_REQUIREMENTS_UPDATED"}),
        ("updateosreqs", {"OS_REQUIREMENTS_UPDATED"}),
    ],
)
def test_updates_build_what_they_name(launched: Machines, command: str, stamped: set[str]) -> None:
    assert "Worker: worker@iris - UP\n" in done(command)
    assert set(launched.machine.stamps) == stamped


def test_shutdown_keeps_the_data_and_purge_does_not(launched: Machines) -> None:
    assert done("shutdown").endswith("Removed.\n")
    assert done("shutdown").endswith("...\nNothing was removed.\n")
    assert launched.machine.data is not None
    done("shutdown", "--purge", "--yes")
    assert launched.machine.data is None
    done("shutdown", "--purge")


@pytest.mark.parametrize(
    ("arguments", "answer", "exit_code", "kept"),
    [([], "n\n", 1, True), ([], "y\n", 0, False), (["--yes"], "", 0, False), ([], "", 1, True)],
    ids=["no", "yes", "--yes", "nobody there to ask"],
)
def test_purge_asks_before_tasks_are_lost(
    launched: Machines, arguments: list[str], answer: str, exit_code: int, kept: bool
) -> None:
    assert launched.machine.data is not None
    launched.machine.data[QUEUE_KEY] = ["a task"]
    result = denzel("shutdown", "--purge", *arguments, stdin=answer)
    assert result.exit_code == exit_code
    assert ("1 unfinished task and" in result.output) is (not arguments)
    unanswered = "Error: There was no answer.\nHint: To go on without being asked, pass --yes.\n"
    assert result.stderr == (unanswered if not arguments and not answer else "")
    assert (launched.machine.data is not None) is kept


def test_without_a_standard_input_there_is_no_answer(launched: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched.machine.data is not None
    launched.machine.data[QUEUE_KEY] = ["a task"]
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SystemExit) as end:
        cli.main(["shutdown", "--purge"])
    assert end.value.code == 1
    assert launched.machine.data is not None


def test_response_changes_how_predict_answers(launched: Machines) -> None:
    assert done("response", "--sync", "--timeout", "2.5") == "POST /predict answers with the result.\n"
    assert launched.machine.data is not None
    assert launched.machine.data[RESPONSE_KEY] == {"mode": "sync", "timeout": "2.5"}
    assert done("response", "--async") == "POST /predict answers at once, with the task id.\n"
    assert launched.machine.data[RESPONSE_KEY] == {"mode": "async", "timeout": "2.5"}


# ------------------------------------------------------------------ status, logs, shell


@pytest.mark.usefixtures("launched")
def test_status_as_the_manual_shows_it(project: Project) -> None:
    stored = settings_file.load(project.env_file, {})
    assert done("status") == (
        "Services:\n"
        "    denzel - UP\n"
        f"    monitor - UP [ Port: {stored.monitor_port} ]\n"
        f"    api - UP [ Port: {stored.api_port} ]\n"
        "    redis - UP\n"
        "Worker: worker@iris - UP\n"
    )


@pytest.mark.usefixtures("launched")
def test_status_as_json() -> None:
    seen = json.loads(done("status", "--json"))
    assert seen["ready"] is True
    assert set(seen["services"]) == {service.value for service in Service}
    assert seen["workers"] == [{"name": "worker@iris", "state": "UP", "cause": ""}]


@pytest.mark.usefixtures("launched")
def test_live_status_ends_well_with_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    assert done("status", "--live").startswith("Services:\n")


def test_live_status_ends_when_the_services_are_removed(launched: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: launched.machine.services.clear())
    assert "not launched" in failed("status", "--live")[0]


@pytest.mark.usefixtures("launched")
def test_logs_of_all_services_or_of_one() -> None:
    assert {line.partition("-")[0] for line in done("logs").splitlines()} == {service.value for service in Service}
    assert done("logs", "--service", "api") == "api-1  | api begins\n"


def test_logs_of_a_task_are_those_of_the_worker_and_of_the_services(project: Project, launched: Machines) -> None:
    line = "[2026-12-01 14:03:02,968: INFO/Process-1 a1b2] printed"
    (project.logs / "worker.log").write_text(f"{line}\n[2026-12-01 14:03:02,969: INFO/Process-1 ffff] another\n")
    assert done("logs", "--task", "a1") == f"{line}\n"
    assert failed("logs", "--task", "c3")[0] == "Error: No line of a task c3 is in the logs."
    # Where the backend cannot be reached, the file is there.
    launched.set["failures"] = {"logs": BackendUnavailable("Docker is away.", hint="Start it.")}
    assert done("logs", "--task", "a1b2") == f"{line}\n"


@pytest.mark.parametrize(
    ("options", "reason"), [(("--task", " "), "needs the id"), (("--task", "a1", "--service", "api"), "--service were")]
)
@pytest.mark.usefixtures("project")
def test_logs_of_no_task_or_of_one_in_one_service_are_refused(options: tuple[str, ...], reason: str) -> None:
    result = denzel("logs", *options)
    assert result.exit_code == 2
    assert reason in result.stderr


def test_live_logs_end_well_with_ctrl_c(launched: Machines) -> None:
    launched.set["failures"] = {"follow": KeyboardInterrupt()}
    assert done("logs", "--live", "--service", "api") == "api-1  | api begins\n\n"


def test_logworker_shows_the_file_in_the_logs_folder(project: Project) -> None:
    (project.logs / "worker.log").write_text("one\ntwo\n")
    assert done("logworker") == "one\ntwo\n"


@pytest.fixture
def following(project: Project) -> Iterator[subprocess.Popen[str]]:
    """`denzel logworker --live` as a process of its own, which has shown its first line."""
    (project.logs / "worker.log").write_text("one\n")
    with in_a_process(project.root, "logworker", "--live", PYTHONUNBUFFERED="1") as process:
        assert read_line(process) == "one\n"
        yield process


def test_live_logworker_ends_well_with_ctrl_c(project: Project, following: subprocess.Popen[str]) -> None:
    with (project.logs / "worker.log").open("a") as log:
        log.write("two\n")
    assert read_line(following) == "two\n"
    interrupt(following)


def test_live_logs_of_a_task_end_well_with_ctrl_c(project: Project) -> None:
    mine = "[2026-12-01 14:03:02,968: INFO/Process-1 a1b2] printed\n"
    (project.logs / "worker.log").write_text(mine + mine.replace("a1b2", "ffff"))
    with in_a_process(project.root, "logs", "--live", "--task", "a1", PYTHONUNBUFFERED="1") as process:
        assert read_line(process) == mine
        with (project.logs / "worker.log").open("a") as log:
            log.write(mine.replace("printed", "more"))
        assert read_line(process) == mine.replace("printed", "more")
        interrupt(process)


def test_shell_ends_as_the_shell_does(launched: Machines) -> None:
    assert denzel("shell").exit_code == 0
    launched.set["shell_code"] = 7
    assert denzel("shell", "--service", "redis").exit_code == 7


# ------------------------------------------------------------------ callbacks and tasks

PENDING = {
    "task_id": "7785759d-5fa3-4e20-b9fe-d51263b4b4ef",
    "uri": "http://host.docker.internal:9000/stash",
    "state": "PENDING",
    "attempts": 3,
    "last_status": 503,
    "last_error": "answered 503",
    "next_try": 1e10,
}
FAILED = {
    "task_id": "0b0f9a3a-7a1c-4b58-8c3e-3d9a0f8a6c11",
    "uri": "http://127.0.0.1:9/",
    "state": "FAILED",
    "attempts": 1,
    "last_status": None,
    "last_error": "Connection refused",
    "next_try": None,
}
RUNNING = {
    "task_id": PENDING["task_id"],
    "status": "STARTED",
    "position": None,
    "deliveries": 1,
    "host": "3f1c2a7b9d0e",
    "since": 1.0,
}
QUARANTINED = {"task_id": FAILED["task_id"], "deliveries": 3, "reason": "the worker died", "since": None}


def unfinished(*tasks: dict[str, object], claimed: int = 0, waiting: int = 0) -> dict[str, object]:
    return {"tasks": tasks, "claimed": claimed, "waiting": waiting}


def serve(machines: Machines, words: str, answer: object) -> None:
    """Set the output of app.serving.admin on the next backends, or the error."""
    output = answer if isinstance(answer, Exception) else json.dumps(answer)
    answers = {("python", "-m", "app.serving.admin", *words.split()): output}
    machines.set["answers"] = {**machines.set.get("answers", {}), **answers}


def test_callbacks_lists_those_that_are_not_delivered(launched: Machines) -> None:
    serve(launched, "callbacks", [PENDING, FAILED])
    heads, first, second = done("callbacks").splitlines()
    assert heads.split()[:3] == ["TASK", "STATE", "ATTEMPTS"]
    assert first.split()[:4] == [PENDING["task_id"], "PENDING", "3", "503"]
    assert second.split()[:5] == [FAILED["task_id"], "FAILED", "1", "-", "-"]
    assert second.endswith("  http://127.0.0.1:9/                     Connection refused")


def test_callbacks_lists_one_state_alone(launched: Machines) -> None:
    serve(launched, "callbacks", [PENDING, FAILED])
    assert [line.split()[1] for line in done("callbacks", "--failed").splitlines()] == ["STATE", "FAILED"]
    assert [line.split()[1] for line in done("callbacks", "--pending").splitlines()] == ["STATE", "PENDING"]


def test_lists_as_json_are_the_output_of_the_service(launched: Machines) -> None:
    serve(launched, "callbacks", [PENDING, {**FAILED, "said-by": "a newer release"}])
    serve(launched, "tasks 0", unfinished(RUNNING, claimed=1))
    serve(launched, "quarantined", [QUARANTINED])
    assert json.loads(done("callbacks", "--json")) == [PENDING, FAILED]
    assert json.loads(done("callbacks", "--failed", "--json")) == [FAILED]
    assert json.loads(done("tasks", "--json")) == [RUNNING]
    assert json.loads(done("tasks", "--quarantined", "--json")) == [QUARANTINED]


def test_empty_lists_are_a_sentence(launched: Machines) -> None:
    for words in ("callbacks", "quarantined"):
        serve(launched, words, [])
    serve(launched, "tasks 0", unfinished())
    assert done("callbacks") == "No callbacks are waiting.\n"
    assert done("callbacks", "--failed") == "No callbacks have failed.\n"
    assert done("tasks") == "No tasks are running or waiting.\n"
    assert done("tasks", "--quarantined") == "No tasks are in quarantine.\n"
    assert done("callbacks", "--json") == "[]\n"


def test_tasks_lists_those_that_have_not_ended(launched: Machines) -> None:
    waiting = {**RUNNING, "task_id": FAILED["task_id"], "status": "PENDING", "position": 1, "host": None, "since": None}
    serve(launched, "tasks 0", unfinished(RUNNING, waiting, claimed=1, waiting=1))
    heads, first, second, counts = done("tasks").splitlines()
    assert heads.split() == ["TASK", "STATUS", "POSITION", "DELIVERIES", "SINCE", "HOST"]
    assert first.split()[:4] == [RUNNING["task_id"], "STARTED", "-", "1"]
    assert first.endswith(" ago  3f1c2a7b9d0e")
    assert second.split() == [FAILED["task_id"], "PENDING", "1", "1", "-", "-"]
    assert counts == "1 running, 1 waiting."


def test_tasks_counts_those_that_it_does_not_list(launched: Machines) -> None:
    rest = [{**RUNNING, "task_id": str(number)} for number in range(3)]
    for offset, page in enumerate([rest, rest[1:], rest[2:], []]):
        serve(launched, f"tasks {offset}", unfinished(*page, claimed=2, waiting=50_001))
    counts = "2 running, 50,001 waiting."
    for arguments, ids, note in (
        (["--limit", "2"], "01", "Listed: 1 to 2. The next ones: denzel tasks --offset 2"),
        (["--offset", "1", "--limit", "1"], "1", "Listed: 2 to 2. The next ones: denzel tasks --offset 2"),
        (["--limit", "9"], "012", "Listed: 1 to 3. The next ones: denzel tasks --offset 3"),
        (["--offset", "3"], "", "Listed: none. The next ones: denzel tasks --offset 3"),
    ):
        *lines, last = done("tasks", *arguments).splitlines()
        assert [line.split()[0] for line in lines[1:]] == list(ids)
        assert last == f"{counts} {note}"
        result = denzel("tasks", *arguments, "--json")
        assert [entry["task_id"] for entry in json.loads(result.stdout)] == list(ids)
        assert result.stderr == f"{counts} {note}\n"


def test_dead_letters_are_listed_with_the_reason(launched: Machines) -> None:
    serve(launched, "quarantined", [QUARANTINED])
    assert done("tasks", "--quarantined").splitlines()[1].endswith("3           -      the worker died")


def test_callbacks_are_sent_again(launched: Machines) -> None:
    serve(launched, "resend one two", {"resent": ["one", "two"], "unknown": []})
    serve(launched, "resend-failed", {"resent": ["three"], "unknown": []})
    assert done("callbacks", "resend", "one", "two").startswith("2 callbacks are sent again now.")
    assert done("callbacks", "resend", "--failed").startswith("1 callback is sent again now.")
    serve(launched, "resend-failed", {"resent": [], "unknown": []})
    assert done("callbacks", "resend", "--failed") == "No callbacks have failed.\n"
    assert {service for backend in launched.opened for service, _ in backend.executed} == {Service.DENZEL}


def test_dead_letters_are_replayed(launched: Machines) -> None:
    serve(launched, "replay one", {"replayed": ["one"], "unknown": []})
    assert done("tasks", "replay", "one").startswith("1 task is queued again.")


def test_dead_letters_are_discarded_after_consent(launched: Machines) -> None:
    serve(launched, "discard one two", {"discarded": ["one", "two"], "unknown": []})
    result = denzel("tasks", "discard", "one", "two", stdin="n\n")
    assert result.exit_code == 1
    assert "These tasks cannot be run again afterwards. Continue?" in result.stdout
    assert result.stdout.endswith("Nothing was discarded.\n")
    assert "pass --yes" in denzel("tasks", "discard", "one", "two").stderr
    assert [command for backend in launched.opened for command in backend.executed] == []
    assert done("tasks", "discard", "one", "two", stdin="y\n").endswith("2 tasks are discarded.\n")
    assert done("tasks", "discard", "one", "two", "--yes") == "2 tasks are discarded.\n"


@pytest.mark.usefixtures("launched")
def test_an_option_of_a_list_before_another_command_is_named() -> None:
    shown = denzel("callbacks", "--failed", "resend", "an-id").stderr
    assert "Error: --failed has no effect before resend: it is an option of the list.\n" in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Pass the ids of tasks, or --failed."),
        (["an-id", "--failed"], "Both ids and --failed were passed. Pass the ids of tasks, or --failed for all."),
    ],
    ids=["nothing", "both"],
)
@pytest.mark.usefixtures("launched")
def test_a_resend_is_of_ids_or_of_all_that_failed(arguments: list[str], complaint: str) -> None:
    result = denzel("callbacks", "resend", *arguments)
    assert result.exit_code == 2
    assert f"Error: {complaint}\n" in result.stderr


def test_unknown_ids_are_named_after_what_was_done(launched: Machines) -> None:
    serve(launched, "resend one two three", {"resent": ["two"], "unknown": ["one", "three"]})
    serve(launched, "replay one", {"replayed": [], "unknown": ["one"]})
    assert denzel("callbacks", "resend", "one", "two", "three").stdout.startswith("1 callback is sent again now.")
    assert failed("callbacks", "resend", "one", "two", "three") == [
        "Error: No callback is stored for one, three.",
        "Hint: See which are not delivered: denzel callbacks",
    ]
    serve(launched, "discard two one", {"discarded": ["two"], "unknown": ["one"]})
    assert denzel("tasks", "discard", "two", "one", "--yes").stdout == "1 task is discarded.\n"
    for command in (["replay", "one"], ["discard", "two", "one", "--yes"]):
        assert failed("tasks", *command) == [
            "Error: Not in quarantine: one.",
            "Hint: See what is: denzel tasks --quarantined",
        ]


@pytest.mark.parametrize("command", [["callbacks"], ["tasks"], ["callbacks", "resend", "--failed"]], ids=" ".join)
@pytest.mark.usefixtures("launched")
def test_lists_need_the_service_denzel(command: list[str]) -> None:
    done("stop")
    assert failed(*command) == ["Error: The service denzel is not running.", "Hint: denzel start"]


def test_the_output_of_a_failed_service_is_shown(launched: Machines) -> None:
    serve(launched, "callbacks", CommandFailed(["python"], 1, "redis does not answer"))
    assert failed("callbacks")[0] == "redis does not answer"


# ------------------------------------------------------------------ watch


@pytest.mark.parametrize(("status", "code"), [("SUCCESS", 0), ("FAILURE", 1), ("REVOKED", 1)])
@pytest.mark.usefixtures("launched")
def test_watch_follows_a_task_to_its_end(project: Project, status: str, code: int) -> None:
    end = b'id: 3\nevent: ended\ndata: {"status": "%s", "result": {"a": 1}}\n\n' % status.encode()
    with running(EventApi([STARTED, OUTPUT, end])) as api:
        settings_file.change(project.env_file, {"API_PORT": str(api.server_port), "API_KEYS": "one,two"})
        result = denzel("watch", "an-id")
    assert (result.exit_code, result.stdout) == (code, f'running\n"the"\n{status}\n{{"a": 1}}\n')
    ((path, headers),) = api.requests
    assert (path, headers["Authorization"]) == ("/status/an-id/events", "Bearer one")


@pytest.mark.usefixtures("launched")
def test_watch_of_an_unknown_task_is_an_error(project: Project) -> None:
    with running(EventApi(404)) as api:
        settings_file.change(project.env_file, {"API_PORT": str(api.server_port)})
        assert failed("watch", "an-id") == [
            "Error: the answer is 404",
            "Hint: denzel tasks lists those that wait and run.",
        ]


# ------------------------------------------------------------------ listen


def signed(body: str, secret: str) -> dict[str, str]:
    """The headers of a callback."""
    now = datetime.now(UTC)
    signature = Webhook(secret).sign("an-id", now, body)
    return {"webhook-id": "an-id", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}


@pytest.mark.parametrize(("backend", "name"), [("docker", "host.docker.internal"), ("local", "127.0.0.1")])
def test_listen_shows_callbacks_until_ctrl_c(project: Project, free_port: int, backend: str, name: str) -> None:
    settings_file.change(project.env_file, {"BACKEND": backend})
    secret = settings_file.load(project.env_file, {}).callback_secret
    with in_a_process(project.pipeline.parent, "listen", "--port", str(free_port)) as process:
        assert read_line(process) == f"Listening on port {free_port}. Use as callback_uri: http://{name}:{free_port}/\n"
        body = '{"a": "\u00fc"}'
        headers = signed(body, secret)
        for sent in (headers, {**headers, "webhook-signature": "v1,x"}, {}):
            request = Request(f"http://127.0.0.1:{free_port}/stash", body.encode(), sent)
            with urlopen(request, timeout=10) as answer:
                assert answer.status == 204
        assert re.fullmatch(r"\d\d:\d\d:\d\d /stash an-id signature good\n", read_line(process))
        assert read_line(process) == f"{body}\n"
        assert re.fullmatch(r"\S+ /stash an-id signature BAD: it was made with .* \(repeated\)\n", read_line(process))
        assert read_line(process) == f"{body}\n"
        assert re.fullmatch(r"\S+ /stash no webhook-id not signed\n", read_line(process))
        interrupt(process)


def test_listen_uses_the_current_secret(project: Project, free_port: int) -> None:
    """A change restarts the services, and not the listener."""
    before = settings_file.load(project.env_file, {}).callback_secret
    after = OTHER_SECRET
    with in_a_process(project.root, "listen", "--port", str(free_port)) as process:
        read_line(process)

        def arrival(secret: str) -> str:
            request = Request(f"http://127.0.0.1:{free_port}/", b"{}", signed("{}", secret))
            urlopen(request, timeout=10).close()
            line = read_line(process)
            read_line(process)
            return line.removesuffix(" (repeated)\n").strip()

        assert arrival(before).endswith("signature good")
        settings_file.change(project.env_file, {"CALLBACK_SECRET": after})
        assert arrival(after).endswith("signature good")
        assert "signature BAD: it was made with a secret other than" in arrival(before)
        text = project.env_file.read_text()
        project.env_file.write_text("half a li")
        assert arrival(after).endswith("signature good")
        project.env_file.unlink()
        assert arrival(after).endswith("signature good")
        project.env_file.write_text(text.replace(after, before))
        assert arrival(before).endswith("signature good")


def test_listen_refuses_a_taken_port(project: Project) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        lines = failed("listen", "--port", str(port))
    assert lines[0].startswith(f"Error: Port {port} is already taken (0.0.0.0: ")
    assert lines[1] == "Hint: Pass another one with --port."


@pytest.mark.parametrize(("backend", "open_to_others"), [("docker", True), ("local", False)])
def test_listen_is_open_to_containers_alone(
    project: Project, free_port: int, backend: str, open_to_others: bool
) -> None:
    """127.0.0.2 is another address of this machine, as that of Docker's bridge is."""
    settings_file.change(project.env_file, {"BACKEND": backend})
    with in_a_process(project.root, "listen", "--port", str(free_port)) as process, socket.socket() as probe:
        read_line(process)
        assert (probe.connect_ex(("127.0.0.2", free_port)) == 0) == open_to_others


@pytest.mark.parametrize(
    ("command", "finishing"),
    [("launch", "start"), ("start", "start"), ("updatereqs", "start"), ("restart", "restart"), ("stop", "stop")],
)
def test_status_names_a_command_that_was_killed_and_the_one_that_finishes_it(
    launched: Machines, project: Project, command: str, finishing: str
) -> None:
    project.interruption_file.parent.mkdir(exist_ok=True)
    project.interruption_file.write_text(command)
    result = denzel("status")
    assert result.exit_code == 0
    assert result.stderr == (f"denzel {command} was cut off before it was through. To finish it: denzel {finishing}\n")
