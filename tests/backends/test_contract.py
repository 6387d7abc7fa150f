"""The contract of a backend: one suite over all of them, the fake included.

Most tests begin with the `launched` fixture, which sees to it that every service is up, whatever the test before left.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest
from doubles.backend import FakeBackend, Machine
from support.ports import find_free_port
from support.waiting import until

from denzel.backends import open_backend
from denzel.backends.base import Backend, BuildStep
from denzel.errors import AlreadyLaunched, BuildFailed, CommandFailed, NotLaunched, ServiceNotRunning
from denzel.project import dotenv
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import Service, ServiceReport, State

NO_STAMPS: dict[str, str] = {}


class Rig(ABC):
    """One project on one backend, and the manual changes of a user to it."""

    #: The name of the backend in .env.
    backend: ClassVar[str] = "docker"
    #: The installer's message about a requirement `!!!`.
    complaint: ClassVar[str] = "Invalid requirement: '!!!'"
    #: True when two folders cannot share a project name.
    names_are_shared: ClassVar[bool] = True
    #: True when a service that a user removes by hand is gone, and not just stopped.
    parts_can_be_removed: ClassVar[bool] = True
    #: True when programs really run.
    runs_programs: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self.project = start_project(f"contract_{secrets.token_hex(4)}", folder)
        ports = {"API_PORT": str(find_free_port()), "MONITOR_PORT": str(find_free_port()), "STOP_TIMEOUT": "10"}
        dotenv.change(self.project.env_file, {**ports, "BACKEND": self.backend})
        self.settings = dotenv.load(self.project.env_file, {})
        self.elsewhere = Project(folder / "elsewhere" / self.project.root.name)

    def open(self) -> Backend:
        """A new backend, as each command opens one."""
        return self.open_for(self.project, self.settings)

    @abstractmethod
    def open_for(self, project: Project, settings: Settings) -> Backend: ...

    @abstractmethod
    def open_with_broken_requirements(self) -> Backend: ...

    @abstractmethod
    def remove(self, *services: Service) -> None: ...

    @abstractmethod
    def life(self, service: Service) -> str:
        """A text that changes with each restart of a service by its supervisor."""

    @abstractmethod
    def runs_the_newest_build(self) -> bool: ...

    @abstractmethod
    def holds_a_build(self) -> bool: ...


class FakeRig(Rig):
    runs_programs = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._machine = Machine()

    def open_for(self, project: Project, settings: Settings) -> FakeBackend:
        return FakeBackend(project, settings, self._machine)

    def open_with_broken_requirements(self) -> Backend:
        backend = self.open_for(self.project, self.settings)
        backend.failures["build"] = BuildFailed("The image could not be built.", detail="Invalid requirement: '!!!'")
        return backend

    def remove(self, *services: Service) -> None:
        for service in services:
            del self._machine.services[service]

    def life(self, service: Service) -> str:
        return str(self._machine.kills.get(service, 0))

    def runs_the_newest_build(self) -> bool:
        return self._machine.running_image == self._machine.image

    def holds_a_build(self) -> bool:
        return self._machine.image is not None


class RealRig(Rig):
    def open_for(self, project: Project, settings: Settings) -> Backend:
        return open_backend(project, settings)

    def open_with_broken_requirements(self) -> Backend:
        (self.project.root / "requirements.txt").write_text("!!!\n")
        return self.open()


class DockerRig(RealRig):
    def remove(self, *services: Service) -> None:
        self._docker("rm", "--force", *(self._container(service) for service in services))

    def life(self, service: Service) -> str:
        """The times that Docker has started the container again; a start by a command begins with 0."""
        return self._docker("inspect", "--format", "{{.RestartCount}}", self._container(service))

    def runs_the_newest_build(self) -> bool:
        name = f"denzel/{self.settings.compose_name}"
        built = self._docker("image", "inspect", "--format", "{{.Id}}", name)
        own = [self._container(service) for service in Service if service.carries_requirements]
        return set(self._docker("inspect", "--format", "{{.Image}}", *own).split()) == {built.strip()}

    def holds_a_build(self) -> bool:
        label = f"com.docker.compose.project={self.settings.compose_name}"
        return bool(self._docker("images", "--quiet", f"--filter=label={label}"))

    def _container(self, service: Service) -> str:
        labels = [f"project={self.settings.compose_name}", f"service={service.value}"]
        filters = [f"--filter=label=com.docker.compose.{label}" for label in labels]
        return self._docker("ps", "--all", "--quiet", *filters).strip()

    def _docker(self, *arguments: str) -> str:
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


class LocalRig(RealRig):
    backend = "local"
    complaint = "expected '-c', '-e', '-r' or the start of a requirement"
    names_are_shared = False
    parts_can_be_removed = False

    def remove(self, *services: Service) -> None:
        """Stop programs behind denzel's back; one that is killed comes back by itself."""
        self._supervisorctl("stop", *(service.value for service in services))

    def life(self, service: Service) -> str:
        """The process of a program; supervisord itself goes on."""
        return f"{self._supervisorctl('pid')} {self._supervisorctl('pid', service.value)}"

    def runs_the_newest_build(self) -> bool:
        runs = json.loads((self._home / "run.json").read_text())["venv"]
        return Path(runs) == (self._home / "venv").resolve()

    def holds_a_build(self) -> bool:
        return bool(list(self._home.glob("venv*")))

    def _supervisorctl(self, *arguments: str) -> str:
        (socket,) = re.findall("^file = (.*)$", (self._home / "supervisord.conf").read_text(), re.MULTILINE)
        own = self.project.root.parent / "supervisorctl.conf"
        own.write_text(f"[supervisorctl]\nserverurl = unix://{socket}\n")
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(own), *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        # 7 means that the program does not run: it waits for its next start.
        assert done.returncode in (0, 7), done.stdout + done.stderr
        return done.stdout

    @property
    def _home(self) -> Path:
        return self.project.root / ".denzel"


RIGS = {"fake": FakeRig, "docker": DockerRig, "local": LocalRig}
BACKENDS = ["fake", *(pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("docker", "local"))]


@pytest.fixture(scope="module", params=BACKENDS)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, package_cache: None) -> Iterator[Rig]:
    rig = RIGS[request.param](tmp_path_factory.mktemp("contract"))
    try:
        yield rig
    finally:
        rig.open().down(purge=True)


@pytest.fixture
def absent(rig: Rig) -> Backend:
    """A project that was never built."""
    backend = rig.open()
    if backend.is_launched() or backend.holds_data() or rig.holds_a_build():
        backend.down(purge=True)
    return backend


@pytest.fixture
def launched(rig: Rig) -> Backend:
    """A project with every service up."""
    backend = rig.open()
    if not _all_up(backend):
        (rig.project.root / "requirements.txt").write_text("")
        backend.build(lambda step: None, stamps=NO_STAMPS)
        backend.up()
        _wait_until_up(backend)
    return backend


def stamps_of_now() -> dict[str, str]:
    """Stamps with which nothing was built before."""
    now = datetime.now(UTC).isoformat()
    return {"OS_REQUIREMENTS_UPDATED": now, "PIP_REQUIREMENTS_UPDATED": now}


def _states(backend: Backend) -> set[State]:
    return {report.state for report in backend.services().values()}


def _all_up(backend: Backend) -> bool:
    return _states(backend) == {State.UP}


def _wait_until_up(backend: Backend) -> None:
    until(lambda: _all_up(backend), within=120, what="every service to be up")


def test_check_finds_a_backend_that_can_run_services(absent: Backend) -> None:
    absent.check()


def test_nothing_is_there_before_the_launch(absent: Backend) -> None:
    assert not absent.is_launched()
    assert not absent.holds_data()
    assert absent.services() == dict.fromkeys(Service, ServiceReport(state=State.DOWN))
    assert list(absent.logs(list(Service))) == []


def test_services_are_listed_in_the_order_of_status(absent: Backend) -> None:
    assert list(absent.services()) == list(Service)


def test_an_unused_name_is_free(absent: Backend) -> None:
    absent.check_name_is_free()


def test_stopping_and_removing_nothing_is_no_error(absent: Backend) -> None:
    absent.stop()
    absent.down(purge=False)
    absent.down(purge=True)
    assert not absent.is_launched()


def test_services_that_were_never_launched_run_no_commands(absent: Backend) -> None:
    with pytest.raises(ServiceNotRunning):
        absent.redis("GET", "a")
    with pytest.raises(ServiceNotRunning):
        absent.shell(Service.DENZEL)
    with pytest.raises(ServiceNotRunning):
        absent.execute(Service.DENZEL, ["cat"])
    with pytest.raises(ServiceNotRunning):
        absent.kill(Service.DENZEL)


def test_a_failed_build_names_the_cause_and_launches_nothing(rig: Rig, absent: Backend) -> None:
    with pytest.raises(BuildFailed) as failure:
        rig.open_with_broken_requirements().build(lambda step: None, stamps=NO_STAMPS)
    assert rig.complaint in failure.value.detail
    assert not absent.is_launched()


def test_up_without_a_build_is_refused(absent: Backend) -> None:
    with pytest.raises(NotLaunched, match="is gone") as gone:
        absent.up()
    assert "denzel updatereqs" in gone.value.hint


def test_a_build_reports_its_steps_and_launches_nothing(rig: Rig, absent: Backend) -> None:
    (rig.project.root / "requirements.txt").write_text("")
    script = rig.project.root / "requirements.sh"
    comments, steps = script.read_text(), list[BuildStep]()
    script.write_text("true\n")
    absent.build(steps.append, stamps=stamps_of_now())
    script.write_text(comments)
    assert {step.state for step in steps} == {State.INSTALLING_OS, State.INSTALLING_PIP}
    assert all(step.text and "\n" not in step.text for step in steps)
    assert not absent.is_launched()


def test_a_build_of_what_was_built_installs_nothing(absent: Backend) -> None:
    stamps = stamps_of_now()
    absent.build(lambda step: None, stamps=stamps)
    steps: list[BuildStep] = []
    absent.build(steps.append, stamps=stamps)
    assert steps == []


def test_up_brings_every_service_up_on_its_port(rig: Rig, launched: Backend) -> None:
    assert launched.is_launched()
    assert launched.services() == {
        Service.DENZEL: ServiceReport(state=State.UP),
        Service.MONITOR: ServiceReport(state=State.UP, port=rig.settings.monitor_port),
        Service.API: ServiceReport(state=State.UP, port=rig.settings.api_port),
        Service.REDIS: ServiceReport(state=State.UP),
    }


def test_up_again_leaves_what_runs_alone(launched: Backend) -> None:
    launched.up()
    assert _all_up(launched)


def test_what_was_launched_is_seen_by_the_next_command(rig: Rig, launched: Backend) -> None:
    assert rig.open().is_launched()
    assert _all_up(rig.open())
    rig.open().check_name_is_free()


def test_another_folder_cannot_use_the_name(rig: Rig, launched: Backend) -> None:
    if not rig.names_are_shared:
        rig.open_for(rig.elsewhere, rig.settings).check_name_is_free()
        return
    with pytest.raises(AlreadyLaunched, match=str(rig.project.root)) as taken:
        rig.open_for(rig.elsewhere, rig.settings).check_name_is_free()
    assert "COMPOSE_PROJECT_NAME" in taken.value.hint


def test_the_processor_time_of_every_service_grows(rig: Rig, launched: Backend) -> None:
    first = launched.processor_time()
    if rig.runs_programs:
        # A part of a second, so that no clock is too coarse to see it.
        launched.redis("EVAL", "local n = 0 for i = 1, 3e7 do n = n + i end return n", "0")
    last = launched.processor_time()
    assert set(first) == set(last) == set(Service)
    assert all(last[service] >= first[service] >= 0 for service in Service)
    assert last[Service.REDIS] > first[Service.REDIS] or not rig.runs_programs


def test_redis_answers_with_text_numbers_nothing_and_lists(launched: Backend) -> None:
    text = "a \"b\" 'c' $d ü \\ {}"
    assert launched.redis("SET", "contract:text", text) == "OK"
    assert launched.redis("GET", "contract:text") == text
    assert launched.redis("GET", "contract:absent") is None
    assert launched.redis("LPUSH", "contract:list", "1", "two") == 2
    assert launched.redis("LLEN", "contract:list") == 2
    assert launched.redis("LRANGE", "contract:list", "0", "-1") == ["two", "1"]
    assert launched.redis("HSET", "contract:hash", "mode", "sync") == 1
    assert launched.redis("HMGET", "contract:hash", "mode", "absent") == ["sync", None]
    assert launched.redis("HGETALL", "contract:hash") == {"mode": "sync"}
    assert launched.redis("HLEN", "contract:absent") == 0
    assert launched.redis("DEL", "contract:text", "contract:list", "contract:hash") == 3


def test_logs_are_lines_after_the_name_of_their_service(launched: Backend) -> None:
    lines = list(launched.logs(list(Service)))
    assert {line.partition("-")[0].partition(" ")[0] for line in lines} == {service.value for service in Service}
    assert not any(line.endswith("\n") for line in lines)


def test_logs_are_of_the_services_asked_for(launched: Backend) -> None:
    assert {line.startswith("redis") for line in launched.logs([Service.REDIS])} == {True}


def test_logs_end_after_the_tail(launched: Backend) -> None:
    assert len(list(launched.logs([Service.REDIS], tail=1))) == 1
    assert list(launched.logs([Service.REDIS], tail=1)) == list(launched.logs([Service.REDIS]))[-1:]


def test_following_logs_begins_with_the_old_lines_and_can_be_left(launched: Backend) -> None:
    lines = launched.logs([Service.REDIS], follow=True)
    assert next(lines).startswith("redis")
    lines.close()


def test_a_shell_with_nothing_to_read_ends_well(launched: Backend) -> None:
    assert launched.shell(Service.DENZEL) == 0
    assert launched.shell(Service.REDIS) == 0


def test_a_program_reads_what_it_is_given_and_its_output_comes_back(launched: Backend) -> None:
    text = "".join(f"{number} ü\n" for number in range(20_000))
    assert launched.execute(Service.DENZEL, ["cat"], stdin=text) == text
    assert launched.execute(Service.REDIS, ["cat"]) == ""


def test_a_program_gets_its_arguments_as_they_are(launched: Backend) -> None:
    text = "a \"b\" 'c' $d ü \\ {} --help"
    assert launched.execute(Service.API, ["printf", "%s", text]) == text


def test_a_program_runs_in_the_project_folder_with_the_environment_of_its_service(rig: Rig, launched: Backend) -> None:
    runtime = (rig.project.root / "runtime.txt").read_text()
    assert launched.execute(Service.DENZEL, ["cat", "runtime.txt"]) == runtime
    assert launched.execute(Service.API, ["printenv", "RESPONSE_MODE"]) == "async\n"
    assert launched.execute(Service.DENZEL, ["printenv", "PROJECT_NAME"]) == f"{rig.settings.compose_name}\n"


def test_a_program_has_the_python_packages_of_the_project(rig: Rig, launched: Backend) -> None:
    if not rig.runs_programs:
        pytest.skip("the fake runs no programs")
    assert (
        launched.execute(Service.DENZEL, ["python", "-c", "import app.serving.settings, celery; print('yes')"])
        == "yes\n"
    )


def test_a_program_that_fails_is_an_error_with_its_stderr(launched: Backend) -> None:
    with pytest.raises(CommandFailed) as failure:
        launched.execute(Service.DENZEL, ["cat", "absent"])
    assert failure.value.code == 1
    assert "No such file" in failure.value.detail
    with pytest.raises(CommandFailed) as missing:
        launched.execute(Service.DENZEL, ["denzel-has-no-such-program"])
    assert missing.value.code in (126, 127)
    assert missing.value.detail == "denzel-has-no-such-program: cannot be run"


def test_a_program_is_rehearsed_with_the_code_and_settings_of_now_beside_what_runs(rig: Rig, launched: Backend) -> None:
    if not rig.runs_programs:
        pytest.skip("the fake runs no programs")
    (rig.project.root / "app" / "logic" / "new.py").write_text("print('new code')\n")
    dotenv.change(rig.project.env_file, {"BATCH_SIZE": "7"})
    now = rig.open_for(rig.project, dotenv.load(rig.project.env_file, {}))
    try:
        before = launched.services()
        assert now.rehearse(Service.DENZEL, ["python", "-m", "app.logic.new"]) == "new code\n"
        assert now.rehearse(Service.DENZEL, ["printenv", "BATCH_SIZE"]) == "7\n"
        with pytest.raises(CommandFailed) as failure:
            now.rehearse(Service.DENZEL, ["python", "-c", "raise SystemExit('no such model')"])
        assert failure.value.detail.splitlines()[-1] == "no such model"
        assert launched.services() == before
    finally:
        dotenv.change(rig.project.env_file, {"BATCH_SIZE": "32"})


@pytest.mark.parametrize("service", Service)
def test_a_service_that_is_killed_comes_back_by_itself(rig: Rig, launched: Backend, service: Service) -> None:
    others = {other: rig.life(other) for other in Service if other is not service}
    before = rig.life(service)
    launched.kill(service)
    until(lambda: rig.life(service) != before, what=f"{service.value} to have ended")
    _wait_until_up(launched)
    assert rig.life(service) != before
    assert {other: rig.life(other) for other in others} == others
    assert launched.is_launched()


def test_a_failed_build_leaves_what_runs_alone(rig: Rig, launched: Backend) -> None:
    with pytest.raises(BuildFailed):
        rig.open_with_broken_requirements().build(lambda step: None, stamps=NO_STAMPS)
    assert _all_up(launched)


def test_up_brings_back_a_part_that_was_removed_by_hand(rig: Rig, launched: Backend) -> None:
    rig.remove(Service.MONITOR)
    assert launched.is_launched()
    assert launched.services()[Service.MONITOR] == ServiceReport(state=State.DOWN)
    assert launched.services()[Service.REDIS].state is State.UP
    launched.up()
    _wait_until_up(launched)


def test_up_replaces_what_an_older_build_made(rig: Rig, launched: Backend) -> None:
    (rig.project.root / "requirements.txt").write_text("# changed\n")
    launched.build(lambda step: None, stamps=stamps_of_now())
    assert not rig.runs_the_newest_build()
    launched.up()
    assert rig.runs_the_newest_build()
    _wait_until_up(launched)


def test_stop_keeps_the_services_their_data_and_their_logs(launched: Backend) -> None:
    launched.redis("SET", "contract:kept", "1")
    launched.stop()
    launched.stop()
    assert launched.is_launched()
    assert launched.holds_data()
    assert _states(launched) == {State.DOWN}
    assert list(launched.logs([Service.REDIS]))
    with pytest.raises(ServiceNotRunning):
        launched.redis("GET", "contract:kept")
    with pytest.raises(ServiceNotRunning):
        launched.shell(Service.REDIS)
    with pytest.raises(ServiceNotRunning):
        launched.execute(Service.REDIS, ["cat"])
    with pytest.raises(ServiceNotRunning):
        launched.kill(Service.REDIS)
    launched.up()
    _wait_until_up(launched)
    assert launched.redis("GET", "contract:kept") == "1"


def test_stopping_and_removing_what_is_half_gone_is_no_error(rig: Rig, launched: Backend) -> None:
    rig.remove(Service.API, Service.REDIS)
    launched.stop()
    launched.down(purge=False)
    assert not launched.is_launched()


def test_down_keeps_the_data_and_what_was_built(launched: Backend) -> None:
    launched.redis("SET", "contract:kept", "2")
    launched.down(purge=False)
    launched.down(purge=False)
    assert not launched.is_launched()
    assert _states(launched) == {State.DOWN}
    assert launched.holds_data()
    launched.up()
    _wait_until_up(launched)
    assert launched.redis("GET", "contract:kept") == "2"


def test_nothing_is_launched_once_every_part_was_removed_by_hand(rig: Rig, launched: Backend) -> None:
    if not rig.parts_can_be_removed:
        pytest.skip("a program that is stopped by hand leaves nothing to remove")
    rig.remove(*Service)
    assert not launched.is_launched()
    assert launched.holds_data()


def test_purge_removes_the_data_and_every_build(rig: Rig, launched: Backend) -> None:
    assert rig.holds_a_build()
    launched.down(purge=True)
    launched.down(purge=True)
    assert not launched.is_launched()
    assert not launched.holds_data()
    assert not rig.holds_a_build()
    with pytest.raises(NotLaunched):
        launched.up()
