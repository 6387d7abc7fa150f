"""The Docker Engine through its SDK: a project's containers, and what is done inside them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container

from denzel import runner
from denzel.backends.base import not_running
from denzel.errors import BackendUnavailable, CommandFailed, ServiceNotRunning
from denzel.services import Service, ServiceReport, State

# Docker's words for a container's state, and ours. That of a running one is the state of its health check.
_CONTAINER_STATES = {
    "created": State.STARTING,
    "restarting": State.STARTING,
    "paused": State.DOWN,
    "removing": State.DOWN,
    "exited": State.DOWN,
    "dead": State.ERROR,
}
_HEALTH_STATES = {"starting": State.STARTING, "healthy": State.UP, "unhealthy": State.ERROR, "none": State.UP}

#: A starting service that has restarted so many times without having been healthy fails.
_RESTARTS_TO_ERROR = 2

#: Kills every process of a container but its first, which then exits too. It runs inside, as a container that
#: `docker kill` ends counts as stopped by its user, and is not restarted.
KILL_COMMAND = ["sh", "-c", "kill -KILL -1"]
_KILL_TIMEOUT = 10

#: Attempts to read an answer of redis-cli.
_MAX_READS = 5


class Engine:
    """One Compose project on the Docker Engine. Methods raise BackendUnavailable when that cannot be reached."""

    def __init__(self, compose_name: str) -> None:
        self._label = [f"com.docker.compose.project={compose_name}"]

    def containers(self) -> list[Container]:
        """The containers of the project's services, running or not."""
        label = [*self._label, "com.docker.compose.oneoff=False"]
        with _reached():
            return list(self._client.containers.list(all=True, filters={"label": label}, ignore_removed=True))

    def running(self, service: Service) -> Container:
        """The container of a running service; raises ServiceNotRunning."""
        for container in self.containers():
            if _service(container) is service and container.status == "running":
                return container
        raise not_running(service)

    def reports(self) -> dict[Service, ServiceReport]:
        """A report for each service that has a container."""
        return {service: container_report(c.attrs) for c in self.containers() if (service := _service(c))}

    def has_volumes(self) -> bool:
        with _reached():
            return bool(self._client.volumes.list(filters={"label": self._label}))

    def remove_image(self, image: str) -> None:
        # The user may run it in a container of their own: then it is kept, which is no error.
        with suppress(APIError):
            self._client.images.remove(image, force=True)

    def prune_images(self) -> None:
        """Remove the untagged images that earlier builds left and no container uses."""
        # The next call will do it if this fails: the engine refuses two at once.
        with suppress(DockerException, OSError):
            self._client.images.prune(filters={"dangling": True, "label": self._label})

    def kill(self, service: Service) -> None:
        """Kill every process of a service, and return when they have ended; raises ServiceNotRunning."""
        container = self.running(service)
        process = container.attrs["State"]["Pid"]
        # The container may be gone before the engine has read the command's exit code.
        with suppress(DockerException, OSError):
            container.exec_run(KILL_COMMAND)
        deadline = time.monotonic() + _KILL_TIMEOUT
        while container.attrs["State"]["Pid"] == process:
            if time.monotonic() > deadline:
                raise CommandFailed(KILL_COMMAND, 1, f"{service.value} still runs after {_KILL_TIMEOUT} s")
            time.sleep(0.05)
            with _reached():
                try:
                    container.reload()
                except NotFound:
                    return

    def processor_time(self) -> dict[Service, float]:
        """Seconds of processor time of each running service."""
        times: dict[Service, float] = {}
        for container in self.containers():
            service = _service(container)
            if container.status != "running" or service is None:
                continue
            # One sample: `docker stats` takes two, to compute the current load.
            with _reached(), suppress(NotFound):
                stats = self._client.api.stats(str(container.id), stream=False, one_shot=True)
                times[service] = stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
        return times

    def redis_cli(self, command: Sequence[str]) -> Any:
        """The answer to a command, run by redis-cli in the container of Redis; raises ServiceNotRunning."""
        for _ in range(_MAX_READS):
            # The SDK may lose output that comes with the response's head (docker-py#2042): all of it, or the beginning.
            with suppress(ValueError):
                return json.loads(self._redis_cli(command))
        raise ServiceNotRunning(
            "redis does not answer: Docker loses the output of redis-cli.", hint="Repeat the command."
        )

    def _redis_cli(self, command: Sequence[str]) -> str:
        try:
            result = self.running(Service.REDIS).exec_run(["redis-cli", "-e", "--json", *command])
        except (DockerException, OSError) as error:
            raise ServiceNotRunning(f"redis does not answer: {error}.", hint="denzel start") from None
        output: Any = result.output
        text: str = output.decode(errors="replace").strip()
        if result.exit_code != 0:
            raise ServiceNotRunning(f"redis does not answer: {text}.", hint="denzel logs --service redis")
        return text

    @cached_property
    def _client(self) -> docker.DockerClient:
        try:
            if os.environ.get("DOCKER_HOST"):
                return docker.from_env()
            # The SDK does not read contexts (Docker Desktop, rootless, Colima); the command does.
            host = runner.run(["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]).strip()
            return docker.DockerClient(base_url=host, use_ssh_client=host.startswith("ssh://"))
        except (DockerException, CommandFailed) as error:
            raise unreachable(str(error)) from None


def container_report(attributes: Mapping[str, Any]) -> ServiceReport:
    """The report of one container, from its attributes in `docker inspect`."""
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


def unreachable(reason: str) -> BackendUnavailable:
    """The error for an engine that cannot be used, from the message of Docker or its SDK."""
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


@contextmanager
def _reached() -> Iterator[None]:
    """Turn the SDK's errors into BackendUnavailable."""
    try:
        yield
    except (DockerException, OSError) as error:
        raise unreachable(str(error)) from None


def _service(container: Container) -> Service | None:
    """The service that a container is of; None for one that the user has added to docker-compose.yml."""
    name = container.labels["com.docker.compose.service"]
    return Service(name) if name in {service.value for service in Service} else None
