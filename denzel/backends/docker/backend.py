"""The services in containers: `docker compose` for their life cycle, the Docker SDK to look inside."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container

from denzel import runner
from denzel.backends.base import Backend, BuildStep, not_running
from denzel.backends.docker.build_output import BuildReader, build_failure
from denzel.backends.docker.compose import (
    build_command,
    compose,
    down_command,
    execute_command,
    logs_command,
    shell_command,
    up_command,
    up_failure,
)
from denzel.errors import AlreadyLaunched, BackendUnavailable, CommandFailed, ServiceNotRunning
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import Service, ServiceReport, State

#: The first release that knows `start_interval` of health checks.
OLDEST_ENGINE = 25

# Docker's words, and ours. A container that runs is what its health check says.
_CONTAINER_STATES = {
    "created": State.STARTING,
    "restarting": State.STARTING,
    "paused": State.DOWN,
    "removing": State.DOWN,
    "exited": State.DOWN,
    "dead": State.ERROR,
}
_HEALTH_STATES = {"starting": State.STARTING, "healthy": State.UP, "unhealthy": State.ERROR, "none": State.UP}

#: A service that is starting for so many times in a row, without having been healthy, does not start.
_RESTARTS_TO_ERROR = 2

#: Ends every process of a container but its first, which then ends too. It is said from inside, because a container
#: that `docker kill` ends counts as stopped by its user, and is not started again.
KILL_COMMAND = ["sh", "-c", "kill -KILL -1"]
_KILL_SECONDS = 10

#: How often Redis is asked, when nobody can read what it answers.
_ASKED_AT_MOST = 5

#: The exit codes of a program that is not there, or is none.
_CAN_NOT_RUN = (126, 127)

_CLEARED = re.compile("^(\033\\[2K)+")


class DockerBackend(Backend):
    """One project on the Docker Engine that the `docker` command reaches."""

    name = "docker"

    def __init__(self, project: Project, settings: Settings) -> None:
        self._project = project
        self._settings = settings
        self._image = f"denzel/{settings.compose_name}"

    def check(self) -> None:
        try:
            version = runner.run(["docker", "version", "--format", "{{.Server.Version}}"]).strip()
        except CommandFailed as error:
            raise _unreachable(error.stderr) from None
        release = re.match(r"\d+", version)
        if release and int(release[0]) < OLDEST_ENGINE:
            raise BackendUnavailable(
                f"Docker Engine {version} is too old.", hint=f"Install release {OLDEST_ENGINE} or newer."
            )
        try:
            runner.run(["docker", "compose", "version"])
        except CommandFailed:
            old = " The docker-compose of old (v1) is there, but not enough." if shutil.which("docker-compose") else ""
            raise BackendUnavailable(
                f"Docker has no Compose plugin (v2).{old}",
                hint="Install it: https://docs.docker.com/compose/install/linux/",
            ) from None

    def is_launched(self) -> bool:
        return bool(self._containers())

    def check_name_is_free(self) -> None:
        for container in self._containers():
            folder = container.labels.get("com.docker.compose.project.working_dir", "")
            if folder and os.path.realpath(folder) != os.path.realpath(self._project.root):
                raise AlreadyLaunched(
                    f"Another project runs under the name {self._settings.compose_name}: the one in {folder}.",
                    hint="Set another COMPOSE_PROJECT_NAME in this project's .env, or shut that project down.",
                )

    def build(self, on_step: Callable[[BuildStep], None], *, stamps: Mapping[str, str]) -> None:
        output: list[str] = []
        reader = BuildReader()
        try:
            for line in self._lines(build_command(), {**stamps, "BUILDKIT_PROGRESS": "plain"}):
                output.append(line)
                for step in reader.feed(line):
                    on_step(step)
        except CommandFailed:
            raise build_failure(self._image, output) from None

    def up(self) -> None:
        try:
            self._run(up_command())
        except CommandFailed as error:
            raise up_failure(self._image, error) from None
        self._prune()

    def stop(self) -> None:
        self._run(compose("stop"))

    def down(self, *, purge: bool) -> None:
        self._run(down_command(purge=purge))
        if purge:
            # Somebody may run the image by itself; then it stays, and is no error.
            with suppress(APIError):
                self._client.images.remove(self._image, force=True)
            self._prune()

    def holds_data(self) -> bool:
        try:
            return bool(self._client.volumes.list(filters={"label": self._label}))
        except (DockerException, OSError) as error:
            raise _unreachable(str(error)) from None

    def services(self) -> dict[Service, ServiceReport]:
        reports = {service: ServiceReport(state=State.DOWN) for service in Service}
        for container in self._containers():
            if service := _service(container):
                reports[service] = container_report(container.attrs)
        return reports

    def logs(self, services: Collection[Service], *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        for line in self._lines(logs_command(services, follow=follow, tail=tail)):
            # Compose 2.26 clears the line of the screen first, where there is no screen too.
            yield _CLEARED.sub("", line)

    def shell(self, service: Service) -> int:
        self._running(service)
        command = shell_command(service, terminal=sys.stdin.isatty())
        return runner.attach(command, cwd=self._project.root, variables=self._settings.texts)

    def execute(self, service: Service, argv: Sequence[str], *, stdin: str = "") -> str:
        self._running(service)
        command = execute_command(service, argv)
        try:
            return self._run(command, stdin=stdin)
        except CommandFailed as error:
            if error.code in _CAN_NOT_RUN and not error.stderr:
                # Docker says so on the program's standard output.
                raise CommandFailed(command, error.code, f"{argv[0]}: cannot be run") from None
            raise

    def kill(self, service: Service) -> None:
        container = self._running(service)
        process = container.attrs["State"]["Pid"]
        # The container may be gone before the engine has looked at how the command in it ended.
        with suppress(DockerException, OSError):
            container.exec_run(KILL_COMMAND)
        deadline = time.monotonic() + _KILL_SECONDS
        while container.attrs["State"]["Pid"] == process:
            if time.monotonic() > deadline:
                raise CommandFailed(KILL_COMMAND, 1, f"{service.value} still runs after {_KILL_SECONDS} s")
            time.sleep(0.05)
            try:
                container.reload()
            except NotFound:
                return
            except (DockerException, OSError) as error:
                raise _unreachable(str(error)) from None

    def processor_time(self) -> dict[Service, float]:
        times: dict[Service, float] = {}
        for container in self._containers():
            service = _service(container)
            if container.status != "running" or service is None:
                continue
            try:
                # One look: Docker's own command waits for a second one, to say how busy it is now.
                stats = self._client.api.stats(str(container.id), stream=False, one_shot=True)
            except NotFound:
                continue
            except (DockerException, OSError) as error:
                raise _unreachable(str(error)) from None
            times[service] = stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
        return times

    def redis(self, *command: str) -> Any:
        for _ in range(_ASKED_AT_MOST):
            # What is printed at once the SDK may lose (docker-py#2042): all of it, or the beginning.
            with suppress(ValueError):
                return json.loads(self._redis_cli(command))
        raise ServiceNotRunning(
            "redis does not answer: what it says gets lost on its way through Docker.", hint="Type the command again."
        )

    def _redis_cli(self, command: Sequence[str]) -> str:
        try:
            result = self._running(Service.REDIS).exec_run(["redis-cli", "-e", "--json", *command])
        except (DockerException, OSError) as error:
            raise ServiceNotRunning(f"redis does not answer: {error}.", hint="denzel start") from None
        output: Any = result.output
        text: str = output.decode(errors="replace").strip()
        if result.exit_code != 0:
            raise ServiceNotRunning(f"redis does not answer: {text}.", hint="denzel logs --service redis")
        return text

    def _run(self, argv: list[str], *, stdin: str = "") -> str:
        return runner.run(argv, cwd=self._project.root, variables=self._settings.texts, stdin=stdin)

    def _lines(self, argv: list[str], variables: Mapping[str, str] | None = None) -> Iterator[str]:
        return runner.lines(argv, cwd=self._project.root, variables={**self._settings.texts, **(variables or {})})

    @cached_property
    def _client(self) -> docker.DockerClient:
        try:
            if os.environ.get("DOCKER_HOST"):
                return docker.from_env()
            # The SDK knows nothing of contexts (Docker Desktop, rootless, Colima); the command does.
            host = runner.run(["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]).strip()
            return docker.DockerClient(base_url=host, use_ssh_client=host.startswith("ssh://"))
        except (DockerException, CommandFailed) as error:
            raise _unreachable(str(error)) from None

    @property
    def _label(self) -> list[str]:
        return [f"com.docker.compose.project={self._settings.compose_name}"]

    def _containers(self) -> list[Container]:
        try:
            return list(
                self._client.containers.list(
                    all=True, filters={"label": [*self._label, "com.docker.compose.oneoff=False"]}, ignore_removed=True
                )
            )
        except (DockerException, OSError) as error:
            raise _unreachable(str(error)) from None

    def _prune(self) -> None:
        """Remove what earlier builds left: images without a name, which nothing runs from."""
        # It may wait for the next time: the engine refuses two of these at once.
        with suppress(DockerException, OSError):
            self._client.images.prune(filters={"dangling": True, "label": self._label})

    def _running(self, service: Service) -> Container:
        for container in self._containers():
            if _service(container) is service and container.status == "running":
                return container
        raise not_running(service)


def _service(container: Container) -> Service | None:
    """Which service a container is; None for one that the user has added to docker-compose.yml."""
    name = container.labels["com.docker.compose.service"]
    return Service(name) if name in {service.value for service in Service} else None


def container_report(attributes: Mapping[str, Any]) -> ServiceReport:
    """The report of one container, from what `docker inspect` says of it."""
    status: str = attributes["State"]["Status"]
    if status == "running":
        state = _HEALTH_STATES[attributes["State"].get("Health", {}).get("Status", "none")]
    elif status == "created" and attributes["State"].get("Error"):
        state = State.ERROR
    else:
        state = _CONTAINER_STATES[status]
    if state is State.STARTING and attributes.get("RestartCount", 0) >= _RESTARTS_TO_ERROR:
        state = State.ERROR
    bindings = attributes["HostConfig"].get("PortBindings") or {}
    ports = [int(binding["HostPort"]) for found in bindings.values() for binding in found or [] if binding["HostPort"]]
    return ServiceReport(state=state, port=ports[0] if ports else None)


def _unreachable(reason: str) -> BackendUnavailable:
    if "permission denied" in reason.lower():
        return BackendUnavailable(
            "You have no permission to use Docker.",
            hint="Add yourself to the docker group (sudo usermod -aG docker $USER), then log in again.",
        )
    return BackendUnavailable(
        "The Docker Engine is not running, or not reachable.",
        hint="Start it (sudo systemctl start docker, or Docker Desktop), then repeat the command.",
        detail=reason.strip(),
    )
