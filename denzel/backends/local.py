"""The services as processes of this machine: no Docker, no root, nothing outside the project but a socket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from denzel import log_file, runner
from denzel.backends.base import Backend, BuildStep
from denzel.backends.environment import PythonEnvironment, bundled_server, find_uv
from denzel.backends.supervisor import Program, Supervisor
from denzel.errors import (
    BackendUnavailable,
    CommandFailed,
    DenzelError,
    ServiceNotRunning,
    ToolMissing,
)
from denzel.project import Project
from denzel.services import SETTINGS, Service, ServiceReport, State
from denzel.settings import Settings

#: Seconds that a running service may take until it is healthy, as `start_period` in docker-compose.yml.
_START_PERIOD = 120

# supervisord's words, and ours. A program that runs is what its health check says.
_PROGRAM_STATES = {
    "STOPPED": State.DOWN,
    "STOPPING": State.DOWN,
    "EXITED": State.DOWN,
    "BACKOFF": State.STARTING,
    "FATAL": State.ERROR,
    "UNKNOWN": State.ERROR,
}
_RUNNING = ("STARTING", "RUNNING")

#: The order in which services are started; they are stopped the other way round, so that Redis sees the end of all.
_PRIORITIES = {Service.REDIS: 1, Service.DENZEL: 2, Service.MONITOR: 3, Service.API: 4}

#: The settings that a running service can not be given anew.
_SETTLED = (
    *("COMPOSE_PROJECT_NAME", "API_HOST", "API_PORT", "MONITOR_PORT"),
    *("REDIS_PASSWORD", "REDIS_SERVER", "OS_REQUIREMENTS_UPDATED"),
    *(key for service in Service for key in SETTINGS[service]),
)

#: Seconds that Redis may take to answer.
_REDIS_PATIENCE = 5

#: The variable that marks every process of a project with its folder.
_MARK = "DENZEL_PROJECT_FOLDER"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one launch settled: the folder it was for, the environment it runs from, the server and its port, and the
    settings that each service was given.
    """

    folder: str
    venv: str
    server: str
    redis_port: int
    settings: Mapping[str, str]


class LocalBackend(Backend):
    """One project on this machine, everything of it in the folder .denzel."""

    name = "local"
    changes_the_machine = True

    def __init__(self, project: Project, settings: Settings) -> None:
        self._project = project
        self._settings = settings
        self._home = project.root / ".denzel"
        self._python = PythonEnvironment(project, settings)
        self._data = self._home / "redis"
        self._run_file = self._home / "run.json"
        self._supervisor = Supervisor(project.root)
        self._stamps: Mapping[str, str] = {}

    def check(self) -> None:
        find_uv()
        if shutil.which("bash") is None:
            raise ToolMissing("The program bash is not installed.", hint="Install bash.")
        if self._settings.redis_server == "system" and not self.is_launched():
            _system_server()

    def is_launched(self) -> bool:
        # What runs is there, even after somebody has removed the folder .denzel.
        return self._run() is not None or self._supervisor.states() is not None or bool(self._left())

    def check_name_is_free(self) -> None:
        """Every folder runs for itself here, whatever the name."""

    def build(self, on_step: Callable[[BuildStep], None], *, stamps: Mapping[str, str]) -> None:
        self._stamps = stamps
        self._python.make(on_step, stamps)

    def up(self) -> None:
        run = self._settled()
        if self._run() == run and self._supervisor.states() is not None and not self._supervisor.is_ending():
            self._supervisor.start_missing()
            return
        self._end()
        for folder in (self._data, self._home / "logs"):
            # Tasks and results are their owner's alone.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration = self._home / "supervisord.conf"
        text = self._supervisor.configuration(self._programs(run), log=".denzel/logs/supervisord.log")
        _write_secret(configuration, text)
        _write_secret(self._run_file, json.dumps(asdict(run)))
        try:
            self._supervisor.start(configuration, self._environment(run))
        except DenzelError:
            # Nothing runs, so nothing is launched.
            self._run_file.unlink(missing_ok=True)
            raise
        self._python.drop_others(Path(run.venv))

    def stop(self) -> None:
        self._end()

    def down(self, *, purge: bool) -> None:
        self._end()
        self._supervisor.remove()
        self._run_file.unlink(missing_ok=True)
        if purge:
            for path in self._home.iterdir() if self._home.exists() else ():
                if path != self._project.activity_file:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def holds_data(self) -> bool:
        return self._data.exists()

    def services(self) -> dict[Service, ServiceReport]:
        programs = self._supervisor.states()
        if programs is None:
            # Whoever killed supervisord alone has left its services without anybody who looks after them.
            state = State.ERROR if self._left() else State.DOWN
            return {service: ServiceReport(state=state) for service in Service}
        with ThreadPoolExecutor(len(Service)) as pool:
            states = dict(zip(Service, pool.map(lambda service: self._state(service, programs), Service), strict=True))
        run = self._run()
        settled = run.settings if run is not None else self._settings.texts
        ports = {Service.API: int(settled["API_PORT"]), Service.MONITOR: int(settled["MONITOR_PORT"])}
        return {
            service: ServiceReport(state=state, port=None if state is State.DOWN else ports.get(service))
            for service, state in states.items()
        }

    def logs(self, services: Collection[Service], *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        paths = {service.value: self._log(service) for service in Service if service in services}
        return log_file.merge_logs(paths, follow=follow, tail=tail)

    def shell(self, service: Service) -> int:
        return runner.attach(["bash", "--norc"], cwd=self._project.root, variables=self._inside(service))

    def execute(self, service: Service, argv: Sequence[str], *, stdin: str = "") -> str:
        try:
            return runner.run(argv, cwd=self._project.root, variables=self._inside(service), stdin=stdin)
        except ToolMissing:
            raise CommandFailed(argv, 127, f"{argv[0]}: can not be run") from None

    def kill(self, service: Service) -> None:
        try:
            first = psutil.Process(self._running(service)["pid"])
        except psutil.NoSuchProcess:
            return
        # Stopped first, so that it makes no others while they are listed.
        _signal(first, signal.SIGSTOP)
        processes = [first, *_below(first)]
        for process in processes:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(processes, timeout=5)

    def processor_time(self) -> dict[Service, float]:
        times: dict[Service, float] = {}
        for service in Service:
            with suppress(ServiceNotRunning, psutil.NoSuchProcess):
                first = psutil.Process(self._running(service)["pid"])
                times[service] = sum(map(_processor_time, [first, *_below(first)]))
        return times

    def redis(self, *command: str) -> Any:
        run = self._run()
        if run is None or self._supervisor.states() is None:
            raise ServiceNotRunning("The service redis is not running.", hint="denzel start")
        client = redis.Redis(
            port=run.redis_port,
            password=run.settings["REDIS_PASSWORD"],
            decode_responses=True,
            socket_timeout=_REDIS_PATIENCE,
            socket_connect_timeout=_REDIS_PATIENCE,
            # By default it would wait again and again, and between.
            retry=Retry(NoBackoff(), 0),
            protocol=3,
        )
        # As the server says it: "OK" and not True.
        client.response_callbacks.clear()
        try:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            raise ServiceNotRunning(
                f"redis does not answer: {str(error).rstrip('.')}.", hint="denzel logs --service redis"
            ) from None
        finally:
            client.close()

    def _running(self, service: Service) -> Mapping[str, Any]:
        """What supervisord says of a service that runs; raises ServiceNotRunning."""
        program = (self._supervisor.states() or {}).get(service.value)
        if program is None or program["statename"] not in _RUNNING or not program["pid"]:
            raise ServiceNotRunning(f"The service {service.value} is not running.", hint="denzel start")
        return program

    def _inside(self, service: Service) -> dict[str, str]:
        """The environment of what the user runs inside a service; raises ServiceNotRunning."""
        self._running(service)
        run = self._run()
        if run is None:
            raise ServiceNotRunning(f"The service {service.value} is not running.", hint="denzel start")
        # Without the mark: what the user does in there does not end with the services.
        return {**self._environment(run), _MARK: "", **self._variables(service, run)}

    def _state(self, service: Service, programs: Mapping[str, Mapping[str, Any]]) -> State:
        program = programs.get(service.value)
        if program is None:
            return State.DOWN
        if program["statename"] not in _RUNNING:
            return _PROGRAM_STATES[program["statename"]]
        if self._healthy(service):
            return State.UP
        return State.STARTING if program["now"] - program["start"] < _START_PERIOD else State.ERROR

    def _healthy(self, service: Service) -> bool:
        run = self._run()
        if run is None:
            return False
        try:
            command = ["bash", "entrypoints/health.sh", service.value]
            runner.run(command, cwd=self._project.root, variables=self._variables(service, run), timeout=5)
        except CommandFailed:
            return False
        return True

    def _settled(self) -> Run:
        """The run as it should be now; it keeps the port of Redis while that server runs."""
        before = self._run()
        venv = self._python.folder()
        running = before is not None and self._supervisor.states() is not None
        return Run(
            folder=os.path.realpath(self._project.root),
            venv=str(venv),
            server=_system_server() if self._settings.redis_server == "system" else bundled_server(venv),
            redis_port=before.redis_port
            if before is not None and running
            else _free_port(but=(self._settings.api_port, self._settings.monitor_port)),
            settings={key: self._stamps.get(key, self._settings.texts[key]) for key in _SETTLED},
        )

    def _run(self) -> Run | None:
        """What the last launch settled, unless that was in a folder of which this one is a copy."""
        try:
            run = Run(**json.loads(self._run_file.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return run if run.folder == os.path.realpath(self._project.root) else None

    def _programs(self, run: Run) -> list[Program]:
        return [
            Program(
                name=service.value,
                priority=_PRIORITIES[service],
                command=f"bash entrypoints/{service.value}.sh",
                environment=self._variables(service, run),
                log=str(self._log(service).relative_to(self._project.root)),
                stop_seconds=int(self._settings.texts["STOP_TIMEOUT"]),
            )
            for service in Service
        ]

    def _variables(self, service: Service, run: Run) -> dict[str, str]:
        """The environment of a service, as docker-compose.yml gives it, with the addresses it has here."""
        settled = run.settings
        return {
            "PROJECT_NAME": settled["COMPOSE_PROJECT_NAME"],
            "REDIS_URL": f"redis://:{settled['REDIS_PASSWORD']}@127.0.0.1:{run.redis_port}/0",
            "REDISCLI_AUTH": settled["REDIS_PASSWORD"],
            "REDIS_BIND": f"127.0.0.1:{run.redis_port}",
            "REDIS_DATA": str(self._data.relative_to(self._project.root)),
            "API_BIND": f"{settled['API_HOST']}:{settled['API_PORT']}",
            "MONITOR_BIND": f"{settled['MONITOR_HOST']}:{settled['MONITOR_PORT']}",
            # A receiver on this machine is what this backend is for; the services themselves are none.
            "CALLBACK_LOOPBACK": "open",
            "OWN_SERVICES": ",".join(
                f"localhost:{port}" for port in (run.redis_port, settled["API_PORT"], settled["MONITOR_PORT"])
            ),
            **{key: settled[key] for key in SETTINGS[service]},
        }

    def _environment(self, run: Run) -> dict[str, str]:
        """What every process of the project inherits."""
        venv = Path(run.venv)
        return {
            _MARK: os.path.realpath(self._project.root),
            "VIRTUAL_ENV": str(venv),
            "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self._supervisor.temporary),
            # Where the package setproctitle is installed, it would write over the mark.
            "SPT_NOENV": "1",
            "REDIS_SERVER_PROGRAM": run.server,
        }

    def _log(self, service: Service) -> Path:
        return self._home / "logs" / f"{service.value}.log"

    def _end(self) -> None:
        """Stop supervisord and its programs, and whatever a supervisord that was killed left behind."""
        self._supervisor.stop()
        left = self._left()
        ids = {process.pid for process in left}
        for process in left:
            # Those that have a parent here end with it, in order.
            if _parent(process) not in ids:
                _signal(process, signal.SIGTERM)
        _, alive = psutil.wait_procs(left, timeout=int(self._settings.texts["STOP_TIMEOUT"]))
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=5)

    def _left(self) -> list[psutil.Process]:
        """The processes of the project, supervisord's or not, also when the folder was moved under them."""
        root = os.path.realpath(self._project.root)
        return [process for process in psutil.process_iter() if root in _folders(process)]


def _folders(process: psutil.Process) -> tuple[str, ...]:
    """The project folder that a process was started for, and the one it is in now; nothing for any other process."""
    try:
        started_for = process.environ().get(_MARK) if process.pid != os.getpid() else None
        return (started_for, process.cwd()) if started_for else ()
    except (psutil.Error, OSError):
        return ()


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _processor_time(process: psutil.Process) -> float:
    """Seconds for which the processors have worked for it, and for those below it that have ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    # macOS says nothing of those that have ended.
    return float(sum(times[:2])) + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _system_server() -> str:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    raise BackendUnavailable(
        "REDIS_SERVER is system, and neither redis-server nor valkey-server is installed.",
        hint="Install one, or set REDIS_SERVER=bundled in .env.",
    )


def _free_port(*, but: Collection[int]) -> int:
    """A port of loopback that nobody has, and that is not one of `but`."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in but:
            return port


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
