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

# A requirements.sh that does something, and one that does nothing.
OS_SCRIPT = "#!/usr/bin/env bash\n# Ours:\napt-get install --yes libgomp1\n"
NO_OS_SCRIPT = "#!/usr/bin/env bash\n# apt-get install --yes libgomp1\n\n   # no more\n"


class Watcher:
    """Records the progress of a command, and the state that other terminals read meanwhile."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.steps: list[BuildStep] = []
        self.states: list[State | None] = []
        self.seen: list[Status] = []

    def doing(self, text: str) -> None:
        self.phases.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def on_step(self, step: BuildStep) -> None:
        self.steps.append(step)
        self.states.append(lock.read_state(self._project.lock_file))

    def on_status(self, status: Status) -> None:
        self.seen.append(status)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = start_project("iris", tmp_path)
    settings_file.change(project.env_file, {"API_PORT": str(find_free_port()), "MONITOR_PORT": str(find_free_port())})
    return project


@pytest.fixture
def backend(project: Project) -> FakeBackend:
    return FakeBackend(project, settings_file.load(project.env_file, {}))


@pytest.fixture
def watcher(project: Project) -> Watcher:
    return Watcher(project)


@pytest.fixture
def launched(backend: FakeBackend) -> FakeBackend:
    """A backend with everything up, and an empty record of actions."""
    backend.build(lambda step: None, stamps={})
    backend.up()
    backend.done.clear()
    return backend


def reader(project: Project, backend: FakeBackend) -> lifecycle.StatusReader:
    return lambda: read_status(project, backend, name="iris")


def reads(*statuses: Status | None) -> lifecycle.StatusReader:
    """Reads each status once, in order."""
    return iter(statuses).__next__


def settings_of(project: Project) -> settings_file.Settings:
    return settings_file.load(project.env_file, {})


def launch(
    project: Project,
    backend: FakeBackend,
    watcher: Watcher,
    *,
    previous: FakeBackend | None = None,
    read_status: lifecycle.StatusReader | None = None,
    options: dict[str, str] | None = None,
) -> None:
    settings, previous = settings_file.load(project.env_file, {}, options), previous or backend
    lifecycle.launch(
        project, backend, settings, previous=previous, options=options or {}, read_status=read_status, progress=watcher
    )


def update(
    project: Project,
    backend: FakeBackend,
    watcher: Watcher,
    *kinds: str,
    consent: bool = False,
    read_status: lifecycle.StatusReader | None = None,
) -> None:
    lifecycle.update_requirements(
        project, backend, settings_of(project), kinds=kinds, consent=consent, read_status=read_status, progress=watcher
    )


def stored(project: Project) -> dict[str, str]:
    return settings_file.read(project.env_file)


@contextmanager
def unchanged(project: Project, backend: FakeBackend) -> Iterator[None]:
    """Nothing is built, started or written meanwhile."""
    before = project.env_file.read_text(), dict(backend.machine.services)
    yield
    assert (project.env_file.read_text(), backend.machine.services) == before
    assert [action for action in backend.done if action != "check"] == []


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


# ------------------------------------------------------------------ launch


def test_launch_checks_builds_and_starts(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    launch(project, backend, watcher, read_status=reader(project, backend))
    assert backend.done == ["check", "build", "up"]
    assert watcher.phases == ["Installing the requirements", "Starting the services"]
    assert watcher.seen == [read_status(project, backend, name="iris")]
    assert watcher.seen[0].ready


def test_launch_publishes_what_it_installs(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    launch(project, backend, watcher)
    assert [step.state for step in watcher.steps] == [State.INSTALLING_OS, State.INSTALLING_PIP]
    assert watcher.states == [State.INSTALLING_OS, State.INSTALLING_PIP]
    assert lock.read_state(project.lock_file) is None


def test_launch_stores_its_options(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    port = str(find_free_port())
    launch(project, backend, watcher, options={"API_PORT": port})
    assert stored(project)["API_PORT"] == port


def test_launch_stores_the_user_of_the_services(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    settings_file.change(project.env_file, {"PROJECT_UID": "4242", "PROJECT_GID": "4242"})
    launch(project, backend, watcher)
    uid, gid = map(str, project.service_user)
    assert (stored(project)["PROJECT_UID"], stored(project)["PROJECT_GID"]) == (uid, gid)
    assert backend.machine.stamps == {"PROJECT_UID": uid, "PROJECT_GID": gid}


def test_launch_without_waiting_reads_no_status(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    backend.comes_up_as = {service: State.STARTING for service in Service if service is not Service.REDIS}
    launch(project, backend, watcher, read_status=None)
    assert watcher.seen == []


def test_launch_needs_a_backend(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    backend.failures["check"] = BackendUnavailable("The Docker Engine is not running.", hint="Start it.")
    with unchanged(project, backend), refused(BackendUnavailable, "not running"):
        launch(project, backend, watcher)


def test_launch_needs_its_name_for_itself(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    other = FakeBackend(
        Project(project.root.parent / "other"), settings_file.load(project.env_file, {}), backend.machine
    )
    other.build(lambda step: None, stamps={})
    other.up()
    with unchanged(project, backend), refused(AlreadyLaunched, "other"):
        launch(project, backend, watcher)


@pytest.mark.parametrize("stopped", [False, True])
def test_launch_of_a_launched_project_names_start(
    project: Project, launched: FakeBackend, watcher: Watcher, stopped: bool
) -> None:
    if stopped:
        launched.stop()
        launched.done.clear()
    with (
        unchanged(project, launched),
        refused(AlreadyLaunched, 'Project already launched! Did you mean "denzel start"?'),
    ):
        launch(project, launched, watcher)


@pytest.mark.parametrize(("key", "option"), [("API_PORT", "--api-port"), ("MONITOR_PORT", "--monitor-port")])
def test_launch_refuses_a_taken_port(
    project: Project, backend: FakeBackend, watcher: Watcher, free_port: int, key: str, option: str
) -> None:
    with taken(free_port), unchanged(project, backend), pytest.raises(PortTaken) as problem:
        launch(project, backend, watcher, options={key: str(free_port)})
    assert f"Port {free_port} is already taken" in str(problem.value)
    assert problem.value.hint == f"Pass another one with {option}."


def test_launch_refuses_one_port_for_two_services(
    project: Project, backend: FakeBackend, watcher: Watcher, free_port: int
) -> None:
    both = {"API_PORT": str(free_port), "MONITOR_PORT": str(free_port)}
    with unchanged(project, backend), refused(PortTaken, f"Port {free_port} is set twice"):
        launch(project, backend, watcher, options=both)


def test_launch_refuses_an_address_of_another_machine(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    with unchanged(project, backend), pytest.raises(DenzelError, match=r"192\.0\.2\.1") as problem:
        launch(project, backend, watcher, options={"MONITOR_HOST": "192.0.2.1"})
    assert "already taken" not in str(problem.value)
    assert problem.value.hint


def test_launch_needs_a_password_for_an_open_monitor(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    settings_file.change(project.env_file, {"MONITOR_PASSWORD": ""})
    with unchanged(project, backend), refused(SettingInvalid, r"MONITOR_HOST is 0\.0\.0\.0"):
        launch(project, backend, watcher, options={"MONITOR_HOST": "0.0.0.0"})


def test_launch_opens_the_monitor_with_a_password(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    launch(project, backend, watcher, options={"MONITOR_HOST": "0.0.0.0"})
    assert stored(project)["MONITOR_HOST"] == "0.0.0.0"


def test_launch_waits_its_turn(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    with (
        lock.exclusive(project.lock_file),
        unchanged(project, backend),
        refused(ProjectLocked, "Another denzel command"),
    ):
        launch(project, backend, watcher)


def test_launch_can_be_repeated_after_a_failed_build(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    backend.failures["build"] = BuildFailed("The image could not be built.", hint="Fix it.")
    with refused(BuildFailed, "could not be built"):
        launch(project, backend, watcher)
    assert not backend.is_launched()
    assert lock.read_state(project.lock_file) is None
    backend.failures.clear()
    launch(project, backend, watcher)
    assert backend.is_launched()


@pytest.mark.parametrize("stopped", [False, True])
def test_launch_is_refused_while_the_other_backend_has_the_project(
    project: Project, backend: FakeBackend, watcher: Watcher, stopped: bool
) -> None:
    backend.name = "local"
    other = FakeBackend(project, settings_file.load(project.env_file, {}))
    other.name = "docker"
    other.build(lambda step: None, stamps={})
    other.up()
    if stopped:
        other.stop()
    with unchanged(project, backend), pytest.raises(AlreadyLaunched) as refusal:
        launch(project, backend, watcher, previous=other, options={"BACKEND": "local"})
    assert str(refusal.value) == "Project already launched, on the docker backend!"
    assert refusal.value.hint == "First: denzel shutdown. Then: denzel launch --backend local"
    other.down(purge=False)
    launch(project, backend, watcher, previous=other, options={"BACKEND": "local"})
    assert stored(project)["BACKEND"] == "local"
    assert backend.is_launched()
    assert not other.is_launched()


@pytest.mark.parametrize("error", [BackendUnavailable("No engine."), ToolMissing("No docker.")])
def test_launch_needs_no_other_backend(
    project: Project, backend: FakeBackend, watcher: Watcher, error: DenzelError
) -> None:
    class Away(FakeBackend):
        def is_launched(self) -> bool:
            raise error

    launch(project, backend, watcher, previous=Away(project, settings_file.load(project.env_file, {})))
    assert backend.is_launched()


@pytest.mark.parametrize(
    ("changes", "script", "told"), [(True, OS_SCRIPT, 1), (True, NO_OS_SCRIPT, 0), (False, OS_SCRIPT, 0)]
)
def test_launch_notes_that_it_leaves_the_machine_unchanged(
    project: Project, backend: FakeBackend, watcher: Watcher, changes: bool, script: str, told: int
) -> None:
    backend.changes_the_machine = changes
    (project.root / "requirements.sh").write_text(script)
    launch(project, backend, watcher)
    assert len(watcher.notes) == told
    assert all("requirements.sh is not run" in note and "denzel updateosreqs" in note for note in watcher.notes)


# ------------------------------------------------------------------ start, stop, restart


def start(project: Project, backend: FakeBackend, watcher: Watcher, *seen: Status | None) -> None:
    lifecycle.start(project, backend, settings_of(project), read_status=reads(*seen), progress=watcher)


def test_a_start_reports_each_status_until_all_is_up(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    story = [status(State.LOADING), status()]
    start(project, launched, watcher, *story, None)
    assert watcher.seen == story


def test_a_failed_start_names_the_service_at_fault(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    launched.failures["up"] = CommandFailed(["docker", "compose", "up"], 1, "dependency failed to start")
    with refused(ServiceFailed, "The service redis does not come up"):
        start(project, launched, watcher, status(redis=State.ERROR))
    with pytest.raises(CommandFailed, match="exit code 1"):
        start(project, launched, watcher, status())
    with pytest.raises(CommandFailed, match="exit code 1"):
        lifecycle.start(project, launched, settings_of(project), read_status=None, progress=watcher)


def test_stop_and_start(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    lifecycle.stop(project, launched, progress=watcher)
    lifecycle.stop(project, launched, progress=watcher)
    assert {report.state for report in launched.services().values()} == {State.DOWN}
    lifecycle.start(project, launched, settings_of(project), read_status=reader(project, launched), progress=watcher)
    lifecycle.start(project, launched, settings_of(project), read_status=reader(project, launched), progress=watcher)
    assert launched.done == ["check", "stop", "check", "stop", "check", "up", "check", "up"]
    assert watcher.seen[-1].ready


def test_start_restores_what_was_removed_by_hand(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    del launched.machine.services[Service.API]
    lifecycle.start(project, launched, settings_of(project), read_status=reader(project, launched), progress=watcher)
    assert launched.services()[Service.API].state is State.UP


def test_restart_stops_and_starts(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    lifecycle.restart(project, launched, settings_of(project), read_status=reader(project, launched), progress=watcher)
    assert launched.done == ["check", "stop", "up"]
    assert watcher.phases == ["Stopping the services", "Starting the services"]


def test_restart_keeps_the_stored_tasks(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    launched.redis("LPUSH", QUEUE_KEY, "a task")
    lifecycle.restart(project, launched, settings_of(project), read_status=None, progress=watcher)
    assert launched.redis("LLEN", QUEUE_KEY) == 1


COMMANDS: dict[str, Callable[[Project, FakeBackend, Watcher], object]] = {
    "start": lambda project, backend, watcher: lifecycle.start(
        project, backend, settings_of(project), read_status=None, progress=watcher
    ),
    "stop": lambda project, backend, watcher: lifecycle.stop(project, backend, progress=watcher),
    "restart": lambda project, backend, watcher: lifecycle.restart(
        project, backend, settings_of(project), read_status=None, progress=watcher
    ),
    "update": lambda project, backend, watcher: update(project, backend, watcher, PIP_REQUIREMENTS),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_was_never_launched_is_left_alone(
    project: Project, backend: FakeBackend, watcher: Watcher, command: Callable[[Project, FakeBackend, Watcher], object]
) -> None:
    with unchanged(project, backend), pytest.raises(NotLaunched) as never:
        command(project, backend, watcher)
    assert never.value.hint == "denzel launch"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_services_of_another_folder_are_left_alone(
    project: Project,
    launched: FakeBackend,
    watcher: Watcher,
    command: Callable[[Project, FakeBackend, Watcher], object],
) -> None:
    launched.machine.folder = project.root.parent / "other"
    with unchanged(project, launched), refused(AlreadyLaunched, "other"):
        command(project, launched, watcher)


# ------------------------------------------------------------------ update requirements


@pytest.mark.parametrize(
    "kinds", [(OS_REQUIREMENTS, PIP_REQUIREMENTS), (OS_REQUIREMENTS,), (PIP_REQUIREMENTS,)], ids=["both", "os", "pip"]
)
def test_updating_builds_once_and_replaces_the_services(
    project: Project, launched: FakeBackend, watcher: Watcher, kinds: tuple[str, ...]
) -> None:
    update(project, launched, watcher, *kinds, read_status=reader(project, launched))
    assert launched.done == ["check", "build", "up"]
    assert set(launched.machine.stamps) == set(kinds)
    stamps = {name: text for name, text in stored(project).items() if name.endswith("_UPDATED") and text}
    assert stamps == launched.machine.stamps
    assert launched.machine.running_image == launched.machine.image


def test_a_failed_update_keeps_what_runs_and_stores_no_stamp(
    project: Project, launched: FakeBackend, watcher: Watcher
) -> None:
    launched.failures["build"] = BuildFailed("No matching distribution found for scikit-lern.", hint="Fix it.")
    with unchanged(project, launched), refused(BuildFailed, "scikit-lern"):
        update(project, launched, watcher, OS_REQUIREMENTS, PIP_REQUIREMENTS)
    assert {report.state for report in launched.services().values()} == {State.UP}
    assert lock.read_state(project.lock_file) is None


BOTH = (OS_REQUIREMENTS, PIP_REQUIREMENTS)


@pytest.mark.parametrize("kinds", [BOTH, (OS_REQUIREMENTS,)], ids=["both", "os"])
def test_what_changes_the_machine_needs_consent(
    project: Project, launched: FakeBackend, watcher: Watcher, kinds: tuple[str, ...]
) -> None:
    launched.changes_the_machine = True
    (project.root / "requirements.sh").write_text(OS_SCRIPT)
    with unchanged(project, launched), pytest.raises(NotPermitted, match=r"requirements\.sh") as refusal:
        update(project, launched, watcher, *kinds)
    assert "--yes" in refusal.value.hint
    assert "denzel updatepipreqs" in refusal.value.hint
    assert launched.done == []
    update(project, launched, watcher, *kinds, consent=True)
    assert set(launched.machine.stamps) == set(kinds)


@pytest.mark.parametrize(
    ("changes", "script", "kinds"),
    [(False, OS_SCRIPT, BOTH), (True, NO_OS_SCRIPT, BOTH), (True, OS_SCRIPT, (PIP_REQUIREMENTS,))],
    ids=["in a container", "nothing to run", "packages alone"],
)
def test_what_leaves_the_machine_alone_needs_no_consent(
    project: Project, launched: FakeBackend, watcher: Watcher, changes: bool, script: str, kinds: tuple[str, ...]
) -> None:
    launched.changes_the_machine = changes
    (project.root / "requirements.sh").write_text(script)
    update(project, launched, watcher, *kinds)
    assert launched.done == ["check", "build", "up"]
    assert set(launched.machine.stamps) == set(kinds)


# ------------------------------------------------------------------ shutdown


class Asked:
    """Answers questions, and records them."""

    def __init__(self, answer: bool) -> None:
        self._answer = answer
        self.questions: list[str] = []

    def __call__(self, question: str) -> bool:
        self.questions.append(question)
        return self._answer


def shut_down(
    project: Project, backend: FakeBackend, watcher: Watcher, *, purge: bool = True, answer: bool = False
) -> tuple[bool, list[str]]:
    """True when anything was removed, and the questions."""
    asked = Asked(answer)
    removed = lifecycle.shutdown(project, backend, purge=purge, confirm=asked, progress=watcher)
    return removed, asked.questions


def test_shutdown_keeps_the_data(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    launched.redis("LPUSH", QUEUE_KEY, "a task")
    assert shut_down(project, launched, watcher, purge=False) == (True, [])
    assert not launched.is_launched()
    assert launched.holds_data()


def test_shutdown_of_nothing_is_no_error(project: Project, backend: FakeBackend, watcher: Watcher) -> None:
    assert shut_down(project, backend, watcher, purge=False) == (False, [])
    shut_down(project, backend, watcher, purge=True)
    assert not backend.is_launched()


def test_shutdown_removes_what_is_left(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    launched.machine.services = {Service.REDIS: State.DOWN}
    assert shut_down(project, launched, watcher, purge=False) == (True, [])
    assert not launched.is_launched()


def test_a_purge_with_nothing_to_lose_does_not_ask(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    assert shut_down(project, launched, watcher) == (True, [])
    assert not launched.holds_data()


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
    project: Project, launched: FakeBackend, watcher: Watcher, loss: Callable[[FakeBackend], object], question: str
) -> None:
    loss(launched)
    removed, questions = shut_down(project, launched, watcher, answer=False)
    assert not removed
    assert len(questions) == 1
    assert questions[0].startswith(question)
    assert launched.holds_data()
    removed, _ = shut_down(project, launched, watcher, answer=True)
    assert removed
    assert not launched.holds_data()


def test_launch_after_shutdown_with_other_ports(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    shut_down(project, launched, watcher, purge=False)
    port = str(find_free_port())
    launch(project, launched, watcher, options={"API_PORT": port})
    assert stored(project)["API_PORT"] == port
    assert launched.is_launched()


# ------------------------------------------------------------------ response


@pytest.mark.parametrize(
    ("synchronous", "timeout", "mode", "seconds"),
    [(True, 2.5, "sync", "2.5"), (True, None, "sync", "5"), (False, None, "async", "5")],
)
def test_response_changes_the_running_api_and_the_settings(
    project: Project, launched: FakeBackend, synchronous: bool, timeout: float | None, mode: str, seconds: str
) -> None:
    assert lifecycle.respond(project, launched, synchronous=synchronous, timeout=timeout)
    assert launched.redis("HGETALL", RESPONSE_KEY) == {"mode": mode, "timeout": seconds}
    assert (stored(project)["RESPONSE_MODE"], stored(project)["RESPONSE_TIMEOUT"]) == (mode, seconds)
    assert launched.done == []


def test_response_is_in_the_settings_after_a_restart(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    lifecycle.respond(project, launched, synchronous=True, timeout=2)
    lifecycle.restart(project, launched, settings_of(project), read_status=None, progress=watcher)
    assert launched.redis("HGETALL", RESPONSE_KEY) == {}
    assert stored(project)["RESPONSE_MODE"] == "sync"


class SlowRedis(FakeBackend):
    """A backend whose Redis answers only after its state was read twice."""

    looks = 0

    def up(self) -> None:
        super().up()
        self.machine.services[Service.REDIS] = State.STARTING

    def services(self) -> dict[Service, ServiceReport]:
        self.looks += 1
        if self.looks > 2:
            self.machine.services[Service.REDIS] = State.UP
        return super().services()


def test_start_waits_for_redis_to_forget(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    settings = settings_of(project)
    mark = loads_key(worker_name(settings.compose_name))
    launched.redis("HSET", mark, "a-host", "DIED")
    launched.redis("HSET", RESPONSE_KEY, "mode", "sync")
    slow = SlowRedis(project, settings, launched.machine)
    lifecycle.restart(project, slow, settings, read_status=None, progress=watcher)
    assert slow.redis("HGETALL", mark) == slow.redis("HGETALL", RESPONSE_KEY) == {}


def test_start_does_not_wait_for_a_failing_redis(project: Project, launched: FakeBackend, watcher: Watcher) -> None:
    launched.comes_up_as = {Service.REDIS: State.ERROR}
    started = time.monotonic()
    lifecycle.restart(project, launched, settings_of(project), read_status=None, progress=watcher)
    assert time.monotonic() - started < 5


def test_start_forgets_an_earlier_death_while_loading(
    project: Project, launched: FakeBackend, watcher: Watcher
) -> None:
    """It may be fixed; otherwise `status` would still report it, and the wait would end at once."""
    settings = settings_of(project)
    mark = loads_key(worker_name(settings.compose_name))
    launched.redis("HSET", mark, "a-host", "DIED")
    lifecycle.restart(project, launched, settings, read_status=None, progress=watcher)
    assert launched.redis("HGETALL", mark) == {}


@pytest.mark.parametrize("stopped", [False, True])
def test_response_of_a_stopped_project_is_stored(project: Project, backend: FakeBackend, stopped: bool) -> None:
    if stopped:
        backend.build(lambda step: None, stamps={})
        backend.up()
        backend.stop()
    assert not lifecycle.respond(project, backend, synchronous=True, timeout=None)
    assert stored(project)["RESPONSE_MODE"] == "sync"


def test_response_refuses_an_invalid_timeout(project: Project, launched: FakeBackend) -> None:
    with unchanged(project, launched), refused(SettingInvalid, "RESPONSE_TIMEOUT is '301'"):
        lifecycle.respond(project, launched, synchronous=True, timeout=301)
    assert launched.redis("HGETALL", RESPONSE_KEY) == {}


def test_a_project_may_have_been_started_without_denzel(project: Project) -> None:
    """As after `docker compose up` without denzel."""
    machine = Machine(folder=project.root, services=dict.fromkeys(Service, State.UP), image=1, running_image=1)
    backend = FakeBackend(project, settings_file.load(project.env_file, {}), machine)
    lifecycle.stop(project, backend, progress=Watcher(project))
    assert {report.state for report in backend.services().values()} == {State.DOWN}
