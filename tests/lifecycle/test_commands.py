"""Launch, restart, update, shutdown and response: the policy, over a backend in memory."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from doubles.backend import FakeBackend, Machine
from support.command import refused, status
from support.ports import find_free_port

from denzel.backends.base import BuildStep
from denzel.errors import (
    AlreadyLaunched,
    BackendUnavailable,
    BuildFailed,
    CommandFailed,
    DenzelError,
    NotLaunched,
    NotPermitted,
    PortTaken,
    ProjectIncomplete,
    ProjectLocked,
    ServiceFailed,
    SettingInvalid,
    ToolMissing,
)
from denzel.lifecycle import commands as lifecycle
from denzel.lifecycle.commands import OS_REQUIREMENTS, PIP_REQUIREMENTS
from denzel.lifecycle.status import read_status
from denzel.project import dotenv as settings_file
from denzel.project import lock
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import (
    QUEUE_KEY,
    RESPONSE_KEY,
    UNACKED_KEY,
    UNDELIVERED_KEY,
    Service,
    ServiceReport,
    State,
    Status,
    loads_key,
    worker_name,
)

# Where a worker's death while it loaded its model is recorded.
DEATHS = loads_key(worker_name("iris"))

# A requirements.sh that does something, and one that does nothing.
OS_SCRIPT = "#!/usr/bin/env bash\n# Ours:\napt-get install --yes libgomp1\n"
NO_OS_SCRIPT = "#!/usr/bin/env bash\n# apt-get install --yes libgomp1\n\n   # no more\n"


class Terminal:
    """A terminal that runs commands of a project: it records their progress, and the state that others read meanwhile.

    With `read_status`, a command that starts the services waits until they are up.
    """

    def __init__(self, project: Project, machine: Machine | None = None) -> None:
        self.project = project
        self.backend = FakeBackend(project, self.settings, machine)
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.steps: list[BuildStep] = []
        self.states: list[State | None] = []
        self.seen: list[Status] = []

    @property
    def settings(self) -> settings_file.Settings:
        return settings_file.load(self.project.env_file, {})

    @property
    def stored(self) -> dict[str, str]:
        return settings_file.read(self.project.env_file)

    def read_status(self) -> Status | None:
        return read_status(self.project, self.backend, name="iris")

    def launch(
        self,
        *,
        previous: FakeBackend | None = None,
        read_status: lifecycle.StatusReader | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        lifecycle.launch(
            self.project,
            self.backend,
            settings_file.load(self.project.env_file, {}, options),
            previous=previous or self.backend,
            options=options or {},
            read_status=read_status,
            progress=self,
        )

    def start(self, read_status: lifecycle.StatusReader | None = None) -> None:
        lifecycle.start(self.project, self.backend, self.settings, read_status=read_status, progress=self)

    def stop(self) -> None:
        lifecycle.stop(self.project, self.backend, progress=self)

    def restart(self, read_status: lifecycle.StatusReader | None = None) -> None:
        lifecycle.restart(self.project, self.backend, self.settings, read_status=read_status, progress=self)

    def update(self, *kinds: str, consent: bool = False, read_status: lifecycle.StatusReader | None = None) -> None:
        lifecycle.update_requirements(
            self.project,
            self.backend,
            self.settings,
            kinds=kinds,
            consent=consent,
            read_status=read_status,
            progress=self,
        )

    def shut_down(self, *, purge: bool = True, answer: bool = False) -> tuple[bool, list[str]]:
        """True when anything was removed, and the questions."""
        questions: list[str] = []

        def confirm(question: str) -> bool:
            questions.append(question)
            return answer

        removed = lifecycle.shutdown(self.project, self.backend, purge=purge, confirm=confirm, progress=self)
        return removed, questions

    def respond(self, *, synchronous: bool, timeout: float | None) -> bool:
        return lifecycle.respond(self.project, self.backend, synchronous=synchronous, timeout=timeout)

    def doing(self, text: str) -> None:
        self.phases.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def on_step(self, step: BuildStep) -> None:
        self.steps.append(step)
        self.states.append(lock.read_state(self.project.lock_file))

    def on_status(self, status: Status) -> None:
        self.seen.append(status)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = start_project("iris", tmp_path)
    settings_file.change(project.env_file, {"API_PORT": str(find_free_port()), "MONITOR_PORT": str(find_free_port())})
    return project


@pytest.fixture
def terminal(project: Project) -> Terminal:
    return Terminal(project)


@pytest.fixture
def launched(terminal: Terminal) -> Terminal:
    """A terminal of a project with everything up, and an empty record of actions."""
    bring_up(terminal.backend)
    terminal.backend.done.clear()
    return terminal


def bring_up(backend: FakeBackend) -> None:
    backend.build(lambda step: None, stamps={})
    backend.up()


def reads(*statuses: Status | None) -> lifecycle.StatusReader:
    """Reads each status once, in order."""
    return iter(statuses).__next__


@contextmanager
def unchanged(terminal: Terminal) -> Iterator[None]:
    """Nothing is built, started or written meanwhile."""
    env_file, backend = terminal.project.env_file, terminal.backend
    before = env_file.read_text(), dict(backend.machine.services)
    yield
    assert (env_file.read_text(), backend.machine.services) == before
    assert [action for action in backend.done if action != "check"] == []


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


# ------------------------------------------------------------------ launch


def test_launch_checks_builds_and_starts(terminal: Terminal) -> None:
    terminal.launch(read_status=terminal.read_status)
    assert terminal.backend.done == ["check", "build", "up"]
    assert terminal.phases == ["Installing the requirements", "Starting the services"]
    assert terminal.seen == [terminal.read_status()]
    assert terminal.seen[0].ready


def test_launch_publishes_what_it_installs(terminal: Terminal) -> None:
    terminal.launch()
    assert [step.state for step in terminal.steps] == [State.INSTALLING_OS, State.INSTALLING_PIP]
    assert terminal.states == [State.INSTALLING_OS, State.INSTALLING_PIP]
    assert lock.read_state(terminal.project.lock_file) is None


def test_launch_stores_its_options(terminal: Terminal) -> None:
    port = str(find_free_port())
    terminal.launch(options={"API_PORT": port})
    assert terminal.stored["API_PORT"] == port


def test_launch_stores_the_user_of_the_services(terminal: Terminal) -> None:
    settings_file.change(terminal.project.env_file, {"PROJECT_UID": "4242", "PROJECT_GID": "4242"})
    terminal.launch()
    uid, gid = map(str, terminal.project.service_user)
    assert (terminal.stored["PROJECT_UID"], terminal.stored["PROJECT_GID"]) == (uid, gid)
    assert terminal.backend.machine.stamps == {"PROJECT_UID": uid, "PROJECT_GID": gid}


def test_launch_without_waiting_reads_no_status(terminal: Terminal) -> None:
    terminal.backend.comes_up_as = {service: State.STARTING for service in Service if service is not Service.REDIS}
    terminal.launch(read_status=None)
    assert terminal.seen == []


def test_launch_needs_a_backend(terminal: Terminal) -> None:
    terminal.backend.failures["check"] = BackendUnavailable("The Docker Engine is not running.", hint="Start it.")
    with unchanged(terminal), refused(BackendUnavailable, "not running"):
        terminal.launch()


def test_launch_needs_its_name_for_itself(terminal: Terminal) -> None:
    other = FakeBackend(Project(terminal.project.root.parent / "other"), terminal.settings, terminal.backend.machine)
    bring_up(other)
    with unchanged(terminal), refused(AlreadyLaunched, "other"):
        terminal.launch()


@pytest.mark.parametrize("stopped", [False, True])
def test_launch_of_a_launched_project_names_start(launched: Terminal, stopped: bool) -> None:
    if stopped:
        launched.backend.stop()
        launched.backend.done.clear()
    with unchanged(launched), refused(AlreadyLaunched, 'Project already launched! Did you mean "denzel start"?'):
        launched.launch()


@pytest.mark.parametrize(("key", "option"), [("API_PORT", "--api-port"), ("MONITOR_PORT", "--monitor-port")])
def test_launch_refuses_a_taken_port(terminal: Terminal, free_port: int, key: str, option: str) -> None:
    with taken(free_port), unchanged(terminal), pytest.raises(PortTaken) as problem:
        terminal.launch(options={key: str(free_port)})
    assert f"Port {free_port} is already taken" in str(problem.value)
    assert problem.value.hint == f"Pass another one with {option}."


def test_launch_refuses_one_port_for_two_services(terminal: Terminal, free_port: int) -> None:
    both = {"API_PORT": str(free_port), "MONITOR_PORT": str(free_port)}
    with unchanged(terminal), refused(PortTaken, f"Port {free_port} is set twice"):
        terminal.launch(options=both)


def test_launch_refuses_an_address_of_another_machine(terminal: Terminal) -> None:
    with unchanged(terminal), pytest.raises(DenzelError, match=r"192\.0\.2\.1") as problem:
        terminal.launch(options={"MONITOR_HOST": "192.0.2.1"})
    assert "already taken" not in str(problem.value)
    assert problem.value.hint


def test_launch_needs_a_password_for_an_open_monitor(terminal: Terminal) -> None:
    settings_file.change(terminal.project.env_file, {"MONITOR_PASSWORD": ""})
    with unchanged(terminal), refused(SettingInvalid, r"MONITOR_HOST is 0\.0\.0\.0"):
        terminal.launch(options={"MONITOR_HOST": "0.0.0.0"})


def test_launch_opens_the_monitor_with_a_password(terminal: Terminal) -> None:
    terminal.launch(options={"MONITOR_HOST": "0.0.0.0"})
    assert terminal.stored["MONITOR_HOST"] == "0.0.0.0"


def test_launch_waits_its_turn(terminal: Terminal) -> None:
    with (
        lock.exclusive(terminal.project.lock_file),
        unchanged(terminal),
        refused(ProjectLocked, "Another denzel command"),
    ):
        terminal.launch()


def test_launch_can_be_repeated_after_a_failed_build(terminal: Terminal) -> None:
    terminal.backend.failures["build"] = BuildFailed("The image could not be built.", hint="Fix it.")
    with refused(BuildFailed, "could not be built"):
        terminal.launch()
    assert not terminal.backend.is_launched()
    assert lock.read_state(terminal.project.lock_file) is None
    terminal.backend.failures.clear()
    terminal.launch()
    assert terminal.backend.is_launched()


@pytest.mark.parametrize("stopped", [False, True])
def test_launch_is_refused_while_the_other_backend_has_the_project(terminal: Terminal, stopped: bool) -> None:
    terminal.backend.name = "local"
    other = FakeBackend(terminal.project, terminal.settings)
    other.name = "docker"
    bring_up(other)
    if stopped:
        other.stop()
    with unchanged(terminal), pytest.raises(AlreadyLaunched) as refusal:
        terminal.launch(previous=other, options={"BACKEND": "local"})
    assert str(refusal.value) == "Project already launched, on the docker backend!"
    assert refusal.value.hint == "First: denzel shutdown. Then: denzel launch --backend local"
    other.down(purge=False)
    terminal.launch(previous=other, options={"BACKEND": "local"})
    assert terminal.stored["BACKEND"] == "local"
    assert terminal.backend.is_launched()
    assert not other.is_launched()


@pytest.mark.parametrize("error", [BackendUnavailable("No engine."), ToolMissing("No docker.")])
def test_launch_needs_no_other_backend(terminal: Terminal, error: DenzelError) -> None:
    class Away(FakeBackend):
        def is_launched(self) -> bool:
            raise error

    terminal.launch(previous=Away(terminal.project, terminal.settings))
    assert terminal.backend.is_launched()


@pytest.mark.parametrize(("bounds", "limit", "noted"), [(False, "400", 2), (True, "400", 0), (False, "0", 0)])
def test_a_memory_limit_that_does_not_hold_is_noted_at_each_start(
    terminal: Terminal, bounds: bool, limit: str, noted: int
) -> None:
    terminal.backend.bounds_memory = bounds
    settings_file.change(terminal.project.env_file, {"WORKER_MEMORY_MB": limit})
    terminal.launch()
    terminal.restart()
    assert len(terminal.notes) == noted
    assert all("WORKER_MEMORY_MB does not hold on the backend" in note for note in terminal.notes)


@pytest.mark.parametrize(
    ("changes", "script", "noted"), [(True, OS_SCRIPT, 1), (True, NO_OS_SCRIPT, 0), (False, OS_SCRIPT, 0)]
)
def test_launch_notes_that_it_leaves_the_machine_unchanged(
    terminal: Terminal, changes: bool, script: str, noted: int
) -> None:
    terminal.backend.changes_the_machine = changes
    (terminal.project.root / "requirements.sh").write_text(script)
    terminal.launch()
    assert len(terminal.notes) == noted
    assert all("requirements.sh is not run" in note and "denzel updateosreqs" in note for note in terminal.notes)


# ------------------------------------------------------------------ start, stop, restart


def test_a_start_reports_each_status_until_all_is_up(launched: Terminal) -> None:
    story = [status(State.LOADING), status()]
    launched.start(reads(*story, None))
    assert launched.seen == story


def test_a_failed_start_names_the_service_at_fault(launched: Terminal) -> None:
    launched.backend.failures["up"] = CommandFailed(["docker", "compose", "up"], 1, "dependency failed to start")
    with refused(ServiceFailed, "The service redis does not come up"):
        launched.start(reads(status(redis=State.ERROR)))
    with pytest.raises(CommandFailed, match="exit code 1"):
        launched.start(reads(status()))
    with pytest.raises(CommandFailed, match="exit code 1"):
        launched.start()


def test_stop_and_start(launched: Terminal) -> None:
    launched.stop()
    launched.stop()
    assert {report.state for report in launched.backend.services().values()} == {State.DOWN}
    launched.start(launched.read_status)
    launched.start(launched.read_status)
    assert launched.backend.done == ["check", "stop", "check", "stop", "check", "up", "check", "up"]
    assert launched.seen[-1].ready


def test_start_restores_what_was_removed_by_hand(launched: Terminal) -> None:
    del launched.backend.machine.services[Service.API]
    launched.start(launched.read_status)
    assert launched.backend.services()[Service.API].state is State.UP


def test_restart_stops_and_starts(launched: Terminal) -> None:
    launched.restart(launched.read_status)
    assert launched.backend.done == ["check", "stop", "up"]
    assert launched.phases == ["Checking the pipeline", "Stopping the services", "Starting the services"]


def test_restart_keeps_the_stored_tasks(launched: Terminal) -> None:
    launched.backend.redis("LPUSH", QUEUE_KEY, "a task")
    launched.restart()
    assert launched.backend.redis("LLEN", QUEUE_KEY) == 1


COMMANDS: dict[str, Callable[[Terminal], None]] = {
    "start": Terminal.start,
    "stop": Terminal.stop,
    "restart": Terminal.restart,
    "update": lambda terminal: terminal.update(PIP_REQUIREMENTS),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_was_never_launched_is_left_alone(terminal: Terminal, command: Callable[[Terminal], None]) -> None:
    with unchanged(terminal), pytest.raises(NotLaunched) as never:
        command(terminal)
    assert never.value.hint == "denzel launch"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_services_of_another_folder_are_left_alone(launched: Terminal, command: Callable[[Terminal], None]) -> None:
    launched.backend.machine.folder = launched.project.root.parent / "other"
    with unchanged(launched), refused(AlreadyLaunched, "other"):
        command(launched)


# ------------------------------------------------------------------ update requirements


@pytest.mark.parametrize(
    "kinds", [(OS_REQUIREMENTS, PIP_REQUIREMENTS), (OS_REQUIREMENTS,), (PIP_REQUIREMENTS,)], ids=["both", "os", "pip"]
)
def test_updating_builds_once_and_replaces_the_services(launched: Terminal, kinds: tuple[str, ...]) -> None:
    launched.update(*kinds, read_status=launched.read_status)
    assert launched.backend.done == ["check", "build", "up"]
    assert set(launched.backend.machine.stamps) == set(kinds)
    stamps = {name: text for name, text in launched.stored.items() if name.endswith("_UPDATED") and text}
    assert stamps == launched.backend.machine.stamps
    assert launched.backend.machine.running_image == launched.backend.machine.image


def test_a_failed_update_keeps_what_runs_and_stores_no_stamp(launched: Terminal) -> None:
    launched.backend.failures["build"] = BuildFailed("No matching distribution found for scikit-lern.", hint="Fix it.")
    with unchanged(launched), refused(BuildFailed, "scikit-lern"):
        launched.update(OS_REQUIREMENTS, PIP_REQUIREMENTS)
    assert {report.state for report in launched.backend.services().values()} == {State.UP}
    assert lock.read_state(launched.project.lock_file) is None


BOTH = (OS_REQUIREMENTS, PIP_REQUIREMENTS)


@pytest.mark.parametrize("kinds", [BOTH, (OS_REQUIREMENTS,)], ids=["both", "os"])
def test_what_changes_the_machine_needs_consent(launched: Terminal, kinds: tuple[str, ...]) -> None:
    launched.backend.changes_the_machine = True
    (launched.project.root / "requirements.sh").write_text(OS_SCRIPT)
    with unchanged(launched), pytest.raises(NotPermitted, match=r"requirements\.sh") as refusal:
        launched.update(*kinds)
    assert "--yes" in refusal.value.hint
    assert "denzel updatepipreqs" in refusal.value.hint
    assert launched.backend.done in ([], ["check"])
    launched.update(*kinds, consent=True)
    assert set(launched.backend.machine.stamps) == set(kinds)


@pytest.mark.parametrize(
    ("changes", "script", "kinds"),
    [(False, OS_SCRIPT, BOTH), (True, NO_OS_SCRIPT, BOTH), (True, OS_SCRIPT, (PIP_REQUIREMENTS,))],
    ids=["in a container", "nothing to run", "packages alone"],
)
def test_what_leaves_the_machine_alone_needs_no_consent(
    launched: Terminal, changes: bool, script: str, kinds: tuple[str, ...]
) -> None:
    launched.backend.changes_the_machine = changes
    (launched.project.root / "requirements.sh").write_text(script)
    launched.update(*kinds)
    assert launched.backend.done == ["check", "build", "up"]
    assert set(launched.backend.machine.stamps) == set(kinds)


# ------------------------------------------------------------------ shutdown


def test_shutdown_keeps_the_data(launched: Terminal) -> None:
    launched.backend.redis("LPUSH", QUEUE_KEY, "a task")
    assert launched.shut_down(purge=False) == (True, [])
    assert not launched.backend.is_launched()
    assert launched.backend.holds_data()


def test_shutdown_of_nothing_is_no_error(terminal: Terminal) -> None:
    assert terminal.shut_down(purge=False) == (False, [])
    terminal.shut_down(purge=True)
    assert not terminal.backend.is_launched()


def test_shutdown_removes_what_is_left(launched: Terminal) -> None:
    launched.backend.machine.services = {Service.REDIS: State.DOWN}
    assert launched.shut_down(purge=False) == (True, [])
    assert not launched.backend.is_launched()


def test_a_purge_with_nothing_to_lose_does_not_ask(launched: Terminal) -> None:
    assert launched.shut_down() == (True, [])
    assert not launched.backend.holds_data()


def store(key: str) -> Callable[[FakeBackend], object]:
    return lambda backend: backend.redis("LPUSH", key, "a", "b")


LOSSES: dict[str, tuple[Callable[[FakeBackend], object], str]] = {
    "waiting": (store(QUEUE_KEY), "2 unfinished tasks and 0 unsent callbacks are stored. Remove them?"),
    "running": (
        lambda backend: backend.redis("HSET", UNACKED_KEY, "tag", "a"),
        "1 unfinished task and 0 unsent callbacks are stored. Remove them?",
    ),
    "unsent": (
        lambda backend: backend.redis("ZADD", UNDELIVERED_KEY, "1", "a", "2", "b"),
        "0 unfinished tasks and 2 unsent callbacks are stored. Remove them?",
    ),
    "stopped": (lambda backend: backend.stop(), "Redis is not running, so it may hold unfinished tasks."),
    "removed": (lambda backend: backend.down(purge=False), "Redis is not running, so it may hold unfinished tasks."),
}


@pytest.mark.parametrize(("loss", "question"), LOSSES.values(), ids=LOSSES)
def test_a_purge_asks_before_tasks_are_lost(
    launched: Terminal, loss: Callable[[FakeBackend], object], question: str
) -> None:
    loss(launched.backend)
    removed, questions = launched.shut_down(answer=False)
    assert not removed
    assert len(questions) == 1
    assert questions[0].startswith(question)
    assert launched.backend.holds_data()
    removed, _ = launched.shut_down(answer=True)
    assert removed
    assert not launched.backend.holds_data()


def test_launch_after_shutdown_with_other_ports(launched: Terminal) -> None:
    launched.shut_down(purge=False)
    port = str(find_free_port())
    launched.launch(options={"API_PORT": port})
    assert launched.stored["API_PORT"] == port
    assert launched.backend.is_launched()


# ------------------------------------------------------------------ response


@pytest.mark.parametrize(
    ("synchronous", "timeout", "mode", "seconds"),
    [(True, 2.5, "sync", "2.5"), (True, None, "sync", "5"), (False, None, "async", "5")],
)
def test_response_changes_the_running_api_and_the_settings(
    launched: Terminal, synchronous: bool, timeout: float | None, mode: str, seconds: str
) -> None:
    assert launched.respond(synchronous=synchronous, timeout=timeout)
    assert launched.backend.redis("HGETALL", RESPONSE_KEY) == {"mode": mode, "timeout": seconds}
    assert (launched.stored["RESPONSE_MODE"], launched.stored["RESPONSE_TIMEOUT"]) == (mode, seconds)
    assert launched.backend.done in ([], ["check"])


def test_response_is_in_the_settings_after_a_restart(launched: Terminal) -> None:
    launched.respond(synchronous=True, timeout=2)
    launched.restart()
    assert launched.backend.redis("HGETALL", RESPONSE_KEY) == {}
    assert launched.stored["RESPONSE_MODE"] == "sync"


class SlowRedis(FakeBackend):
    """A backend whose Redis is up only after its state was read twice."""

    looks = 0

    def up(self) -> None:
        super().up()
        self.machine.services[Service.REDIS] = State.STARTING

    def services(self) -> dict[Service, ServiceReport]:
        self.looks += 1
        if self.looks > 2:
            self.machine.services[Service.REDIS] = State.UP
        return super().services()


def test_start_waits_for_redis_before_it_deletes_earlier_reports(launched: Terminal) -> None:
    launched.backend.redis("HSET", DEATHS, "a-host", "DIED")
    launched.backend.redis("HSET", RESPONSE_KEY, "mode", "sync")
    launched.backend = SlowRedis(launched.project, launched.settings, launched.backend.machine)
    launched.restart()
    assert launched.backend.redis("HGETALL", DEATHS) == launched.backend.redis("HGETALL", RESPONSE_KEY) == {}


def test_start_does_not_wait_for_a_failing_redis(launched: Terminal) -> None:
    launched.backend.comes_up_as = {Service.REDIS: State.ERROR}
    started = time.monotonic()
    launched.restart()
    assert time.monotonic() - started < 5


def test_start_forgets_an_earlier_death_while_loading(launched: Terminal) -> None:
    """It may be fixed; otherwise `status` would still report it, and the wait would end at once."""
    launched.backend.redis("HSET", DEATHS, "a-host", "DIED")
    launched.restart()
    assert launched.backend.redis("HGETALL", DEATHS) == {}


@pytest.mark.parametrize("stopped", [False, True])
def test_response_of_a_stopped_project_is_stored(terminal: Terminal, stopped: bool) -> None:
    if stopped:
        bring_up(terminal.backend)
        terminal.backend.stop()
    assert not terminal.respond(synchronous=True, timeout=None)
    assert terminal.stored["RESPONSE_MODE"] == "sync"


def test_response_refuses_an_invalid_timeout(launched: Terminal) -> None:
    with unchanged(launched), refused(SettingInvalid, "RESPONSE_TIMEOUT is '301'"):
        launched.respond(synchronous=True, timeout=301)
    assert launched.backend.redis("HGETALL", RESPONSE_KEY) == {}


def test_a_project_may_have_been_started_without_denzel(project: Project) -> None:
    """As after `docker compose up` without denzel."""
    machine = Machine(folder=project.root, services=dict.fromkeys(Service, State.UP), image=1, running_image=1)
    terminal = Terminal(project, machine)
    terminal.stop()
    assert {report.state for report in terminal.backend.services().values()} == {State.DOWN}


COMMANDS_THAT_START: dict[str, Callable[[Terminal], None]] = {
    "start": Terminal.start,
    "restart": Terminal.restart,
    "updatereqs": lambda terminal: terminal.update(PIP_REQUIREMENTS, OS_REQUIREMENTS),
}


@pytest.mark.parametrize("missing", ["requirements.sh", "entrypoints/api.sh"])
@pytest.mark.parametrize("command", COMMANDS_THAT_START.values(), ids=COMMANDS_THAT_START)
def test_nothing_is_stopped_while_a_file_is_missing(
    launched: Terminal, command: Callable[[Terminal], None], missing: str
) -> None:
    (launched.project.root / missing).unlink()
    with pytest.raises(ProjectIncomplete, match=missing):
        command(launched)
    assert launched.backend.done in ([], ["check"])


FAULT = CommandFailed(
    ["python"],
    1,
    'Traceback (most recent call last):\nSyntaxError: invalid syntax\npipeline fault: {"fault": "pipeline.py cannot be'
    ' imported: SyntaxError: invalid syntax", "hint": "Fix it. Then: denzel restart"}\n',
)

RESTARTING = {name: COMMANDS_THAT_START[name] for name in ("restart", "updatereqs")}


@pytest.mark.parametrize("command", RESTARTING.values(), ids=RESTARTING)
def test_nothing_is_stopped_for_a_pipeline_that_cannot_be_used(
    launched: Terminal, command: Callable[[Terminal], None]
) -> None:
    launched.backend.failures["rehearse"] = FAULT
    with pytest.raises(ServiceFailed) as failed:
        command(launched)
    assert str(failed.value) == "pipeline.py cannot be imported: SyntaxError: invalid syntax. Nothing was stopped."
    assert failed.value.hint == "Fix it. Then: denzel restart"
    assert failed.value.detail == "Traceback (most recent call last):\nSyntaxError: invalid syntax"
    assert {"stop", "up"}.isdisjoint(launched.backend.done)


def test_a_project_of_an_earlier_release_is_restarted_without_a_check(launched: Terminal) -> None:
    missing = "python: Error while finding module specification (ModuleNotFoundError: No module named 'app.serving')"
    launched.backend.failures["rehearse"] = CommandFailed(["python"], 1, missing)
    launched.restart()
    assert [action for action in launched.backend.done if action in ("stop", "up")] == ["stop", "up"]


def test_a_check_that_cannot_be_run_stops_nothing(launched: Terminal) -> None:
    launched.backend.failures["rehearse"] = CommandFailed(["docker"], 125, "no space left on device")
    with pytest.raises(CommandFailed, match="125"):
        launched.restart()
    assert {"stop", "up"}.isdisjoint(launched.backend.done)
