"""Backend without containers: the services as processes of this machine, started by supervisord in the project."""

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
from denzel.backends.local.launch_record import DATA, FIXED_SETTINGS, LaunchRecord, LaunchRecordFile, write_secret
from denzel.backends.local.processes import MARK, end_project, kill_project, kill_tree, processes_of, processor_seconds
from denzel.backends.local.supervisor import Program, Supervisor
from denzel.backends.local.venv import PythonEnvironment, bundled_server, find_uv
from denzel.errors import BackendUnavailable, CommandFailed, DenzelError, ServiceNotRunning, ToolMissing
from denzel.project import log_file, pipeline_env
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import Service, ServiceReport, State

#: Seconds that a running service may take to become healthy, as `start_period` in docker-compose.yml.
_START_PERIOD = 120

# supervisord's words for a program's state, and ours. That of a running one is the state of its health check.
_PROGRAM_STATES = {
    "STOPPED": State.DOWN,
    "STOPPING": State.DOWN,
    # Restarted in a moment.
    "EXITED": State.STARTING,
    "BACKOFF": State.STARTING,
    "FATAL": State.ERROR,
    "UNKNOWN": State.ERROR,
}
_RUNNING = ("STARTING", "RUNNING")

#: The order in which services are started. They are stopped in reverse, so that Redis is there until the end.
_PRIORITIES = {Service.REDIS: 1, Service.DENZEL: 2, Service.MONITOR: 3, Service.API: 4}

#: Seconds to wait for an answer of Redis.
_REDIS_TIMEOUT = 5


class LocalBackend(Backend):
    """One project on this machine, all of it in the folder .denzel but a socket in the temporary folder."""

    name = "local"
    changes_the_machine = True
    bounds_memory = False

    def __init__(self, project: Project, settings: Settings) -> None:
        self._project = project
        self._settings = settings
        self._home = project.root / ".denzel"
        self._python = PythonEnvironment(project, settings)
        self._data = project.root / DATA
        self._record_file = LaunchRecordFile(project)
        self._supervisor = Supervisor(project.root)
        self._stamps: Mapping[str, str] = {}

    def check(self) -> None:
        find_uv()
        if shutil.which("bash") is None:
            raise ToolMissing("The program bash is not installed.", hint="Install bash.")
        if self._settings.redis_server == "system" and not self.is_launched():
            _system_server()

    def is_launched(self) -> bool:
        # Services may run although the folder .denzel was removed.
        return (
            self._record_file.read() is not None
            or self._supervisor.states() is not None
            or bool(processes_of(self._project.root))
        )

    def check_name_is_free(self) -> None:
        """Do nothing: here projects are distinguished by their folders."""

    def build(self, on_step: Callable[[BuildStep], None], *, stamps: Mapping[str, str]) -> None:
        self._stamps = stamps
        self._python.make(on_step, stamps)

    def up(self) -> None:
        record = self._new_record()
        up_to_date = self._record_file.read() == record and self._supervisor.states() is not None
        if up_to_date and not self._supervisor.is_ending():
            self._supervisor.start_missing()
            return
        self._stop_all()
        for folder in (self._data, self._home / "logs"):
            # Only the owner may read tasks and results.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration = self._home / "supervisord.conf"
        text = self._supervisor.configuration(self._programs(record), log=".denzel/logs/supervisord.log")
        write_secret(configuration, text)
        self._record_file.write(record)
        try:
            self._supervisor.start(configuration, record.environment(self._supervisor.temp_folder))
        except DenzelError:
            # Nothing runs, so nothing is launched.
            self._record_file.remove()
            raise
        self._python.drop_others(Path(record.venv))

    def stop(self) -> None:
        self._stop_all()

    def down(self, *, purge: bool) -> None:
        if purge:
            # Running tasks are lost with the data: there is nothing to wait for.
            kill_project(self._project.root)
        else:
            self._stop_all()
        self._supervisor.remove()
        self._record_file.remove()
        if purge:
            for path in self._home.iterdir() if self._home.exists() else ():
                if path != self._project.lock_file:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def holds_data(self) -> bool:
        return self._data.exists()

    def services(self) -> dict[Service, ServiceReport]:
        programs = self._supervisor.states()
        if programs is None:
            # Services without a supervisord, which was killed alone, are not restarted any more.
            state = State.ERROR if processes_of(self._project.root) else State.DOWN
            return {service: ServiceReport(state=state) for service in Service}
        with ThreadPoolExecutor(len(Service)) as pool:
            states = dict(zip(Service, pool.map(lambda service: self._state(service, programs), Service), strict=True))
        record = self._record_file.read()
        settings = record.settings if record is not None else self._settings.texts
        ports = {Service.API: int(settings["API_PORT"]), Service.MONITOR: int(settings["MONITOR_PORT"])}
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

    def rehearse(self, service: Service, argv: Sequence[str]) -> str:
        record = self._new_record()
        variables = {**record.users_variables(service), **record.variables(service), MARK: ""}
        environment = {**record.environment(self._supervisor.temp_folder), **variables}
        return runner.run(argv, cwd=self._project.root, variables=environment)

    def kill(self, service: Service) -> None:
        kill_tree(self._running(service)["pid"])

    def processor_time(self) -> dict[Service, float]:
        times: dict[Service, float] = {}
        for service in Service:
            with suppress(ServiceNotRunning, ProcessLookupError):
                times[service] = processor_seconds(self._running(service)["pid"])
        return times

    def redis(self, *command: str) -> Any:
        record = self._record_file.read()
        if record is None or self._supervisor.states() is None:
            raise not_running(Service.REDIS)
        client = redis.Redis(
            port=record.redis_port,
            password=record.settings["REDIS_PASSWORD"],
            decode_responses=True,
            socket_timeout=_REDIS_TIMEOUT,
            socket_connect_timeout=_REDIS_TIMEOUT,
            # By default it would retry, with pauses.
            retry=Retry(NoBackoff(), 0),
            protocol=3,
        )
        # Replies as the server sends them: "OK" and not True.
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
        """supervisord's record of a running service; raises ServiceNotRunning."""
        program = (self._supervisor.states() or {}).get(service.value)
        if program is None or program["statename"] not in _RUNNING or not program["pid"]:
            raise not_running(service)
        return program

    def _inside(self, service: Service) -> dict[str, str]:
        """The environment of a program that the user runs inside a service; raises ServiceNotRunning."""
        self._running(service)
        record = self._record_file.read()
        if record is None:
            raise not_running(service)
        # Without the mark: the user's programs are not to be ended with the services.
        return {
            **record.environment(self._supervisor.temp_folder),
            MARK: "",
            **record.users_variables(service),
            **record.variables(service),
        }

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
        record = self._record_file.read()
        if record is None:
            return False
        try:
            command = ["bash", "entrypoints/health.sh", service.value]
            runner.run(command, cwd=self._project.root, variables=record.variables(service), timeout=5)
        except CommandFailed:
            return False
        return True

    def _new_record(self) -> LaunchRecord:
        """The record of a launch with the current settings; the port of Redis is kept while that runs."""
        before = self._record_file.read()
        venv = self._python.folder()
        texts = {**self._settings.texts, **self._stamps}
        running = before is not None and self._supervisor.states() is not None
        return LaunchRecord(
            folder=os.path.realpath(self._project.root),
            venv=str(venv),
            server=_system_server() if self._settings.redis_server == "system" else bundled_server(venv),
            redis_port=before.redis_port
            if before is not None and running
            else _free_port(but=(self._settings.api_port, self._settings.monitor_port)),
            settings={key: texts[key] for key in FIXED_SETTINGS if key in texts},
            pipeline=pipeline_env.read(self._project.pipeline_env),
        )

    def _programs(self, record: LaunchRecord) -> list[Program]:
        return [
            Program(
                name=service.value,
                priority=_PRIORITIES[service],
                command=record.command(service),
                environment=record.variables(service),
                log=str(self._log(service).relative_to(self._project.root)),
                stop_seconds=int(self._settings.texts["STOP_TIMEOUT"]),
            )
            for service in Service
        ]

    def _log(self, service: Service) -> Path:
        return self._home / "logs" / f"{service.value}.log"

    def _stop_all(self) -> None:
        """Stop supervisord and its programs, and those that a killed supervisord left behind."""
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
    """A free port of 127.0.0.1 that is not one of `but`."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in but:
            return port
