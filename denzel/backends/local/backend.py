"""The services as processes of this machine: no Docker, no root, nothing outside the project but a socket."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from denzel import runner
from denzel.backends.base import Backend, BuildStep, not_running
from denzel.backends.local.launch_record import DATA, SETTLED, LaunchRecord, LaunchRecordFile, write_secret
from denzel.backends.local.processes import MARK, end_project, kill_project, kill_tree, processes_of, processor_seconds
from denzel.backends.local.supervisor import Program, Supervisor
from denzel.backends.local.venv import PythonEnvironment, bundled_server, find_uv
from denzel.errors import BackendUnavailable, CommandFailed, DenzelError, ServiceNotRunning, ToolMissing
from denzel.project import log_file
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import Service, ServiceReport, State

#: Seconds that a running service may take until it is healthy, as `start_period` in docker-compose.yml.
_START_PERIOD = 120

# supervisord's words, and ours. A program that runs is what its health check says.
_PROGRAM_STATES = {
    "STOPPED": State.DOWN,
    "STOPPING": State.DOWN,
    # It is about to be started again.
    "EXITED": State.STARTING,
    "BACKOFF": State.STARTING,
    "FATAL": State.ERROR,
    "UNKNOWN": State.ERROR,
}
_RUNNING = ("STARTING", "RUNNING")

#: The order in which services are started; they are stopped the other way round, so that Redis sees the end of all.
_PRIORITIES = {Service.REDIS: 1, Service.DENZEL: 2, Service.MONITOR: 3, Service.API: 4}

#: Seconds that Redis may take to answer.
_REDIS_PATIENCE = 5


class LocalBackend(Backend):
    """One project on this machine, everything of it in the folder .denzel."""

    name = "local"
    changes_the_machine = True

    def __init__(self, project: Project, settings: Settings) -> None:
        self._project = project
        self._settings = settings
        self._home = project.root / ".denzel"
        self._python = PythonEnvironment(project, settings)
        self._data = project.root / DATA
        self._run_file = LaunchRecordFile(project)
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
        return (
            self._run_file.read() is not None
            or self._supervisor.states() is not None
            or bool(processes_of(self._project.root))
        )

    def check_name_is_free(self) -> None:
        """Every folder runs for itself here, whatever the name."""

    def build(self, on_step: Callable[[BuildStep], None], *, stamps: Mapping[str, str]) -> None:
        self._stamps = stamps
        self._python.make(on_step, stamps)

    def up(self) -> None:
        run = self._settled()
        if self._run_file.read() == run and self._supervisor.states() is not None and not self._supervisor.is_ending():
            self._supervisor.start_missing()
            return
        self._end()
        for folder in (self._data, self._home / "logs"):
            # Tasks and results are their owner's alone.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration = self._home / "supervisord.conf"
        text = self._supervisor.configuration(self._programs(run), log=".denzel/logs/supervisord.log")
        write_secret(configuration, text)
        self._run_file.write(run)
        try:
            self._supervisor.start(configuration, run.environment(self._supervisor.temporary))
        except DenzelError:
            # Nothing runs, so nothing is launched.
            self._run_file.remove()
            raise
        self._python.drop_others(Path(run.venv))

    def stop(self) -> None:
        self._end()

    def down(self, *, purge: bool) -> None:
        if purge:
            # What is running is lost with the data.
            kill_project(self._project.root)
        else:
            self._end()
        self._supervisor.remove()
        self._run_file.remove()
        if purge:
            for path in self._home.iterdir() if self._home.exists() else ():
                if path != self._project.lock_file:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def holds_data(self) -> bool:
        return self._data.exists()

    def services(self) -> dict[Service, ServiceReport]:
        programs = self._supervisor.states()
        if programs is None:
            # Whoever killed supervisord alone has left its services without anybody who looks after them.
            state = State.ERROR if processes_of(self._project.root) else State.DOWN
            return {service: ServiceReport(state=state) for service in Service}
        with ThreadPoolExecutor(len(Service)) as pool:
            states = dict(zip(Service, pool.map(lambda service: self._state(service, programs), Service), strict=True))
        run = self._run_file.read()
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
            raise CommandFailed(argv, 127, f"{argv[0]}: cannot be run") from None

    def kill(self, service: Service) -> None:
        kill_tree(self._running(service)["pid"])

    def processor_time(self) -> dict[Service, float]:
        times: dict[Service, float] = {}
        for service in Service:
            with suppress(ServiceNotRunning, ProcessLookupError):
                times[service] = processor_seconds(self._running(service)["pid"])
        return times

    def redis(self, *command: str) -> Any:
        run = self._run_file.read()
        if run is None or self._supervisor.states() is None:
            raise not_running(Service.REDIS)
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
            raise not_running(service)
        return program

    def _inside(self, service: Service) -> dict[str, str]:
        """The environment of what the user runs inside a service; raises ServiceNotRunning."""
        self._running(service)
        run = self._run_file.read()
        if run is None:
            raise not_running(service)
        # Without the mark: what the user does in there does not end with the services.
        return {**run.environment(self._supervisor.temporary), MARK: "", **run.variables(service)}

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
        run = self._run_file.read()
        if run is None:
            return False
        try:
            command = ["bash", "entrypoints/health.sh", service.value]
            runner.run(command, cwd=self._project.root, variables=run.variables(service), timeout=5)
        except CommandFailed:
            return False
        return True

    def _settled(self) -> LaunchRecord:
        """The run as it should be now; it keeps the port of Redis while that server runs."""
        before = self._run_file.read()
        venv = self._python.folder()
        running = before is not None and self._supervisor.states() is not None
        return LaunchRecord(
            folder=os.path.realpath(self._project.root),
            venv=str(venv),
            server=_system_server() if self._settings.redis_server == "system" else bundled_server(venv),
            redis_port=before.redis_port
            if before is not None and running
            else _free_port(but=(self._settings.api_port, self._settings.monitor_port)),
            settings={key: self._stamps.get(key, self._settings.texts[key]) for key in SETTLED},
        )

    def _programs(self, run: LaunchRecord) -> list[Program]:
        return [
            Program(
                name=service.value,
                priority=_PRIORITIES[service],
                command=f"bash entrypoints/{service.value}.sh",
                environment=run.variables(service),
                log=str(self._log(service).relative_to(self._project.root)),
                stop_seconds=int(self._settings.texts["STOP_TIMEOUT"]),
            )
            for service in Service
        ]

    def _log(self, service: Service) -> Path:
        return self._home / "logs" / f"{service.value}.log"

    def _end(self) -> None:
        """Stop supervisord and its programs, and whatever a supervisord that was killed left behind."""
        self._supervisor.stop()
        end_project(self._project.root, within=int(self._settings.texts["STOP_TIMEOUT"]))


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
