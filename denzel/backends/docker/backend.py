"""Backend on Docker: `docker compose` runs the services, the Docker SDK reads and enters their containers."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from denzel import runner
from denzel.backends.base import Backend, BuildStep
from denzel.backends.docker import compose
from denzel.backends.docker.build_output import BuildReader, build_failure
from denzel.backends.docker.engine import Engine, unreachable
from denzel.errors import AlreadyLaunched, BackendUnavailable, CommandFailed
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.project.requirements import explained
from denzel.services import Service, ServiceReport, State

#: The first release of Docker Engine with `start_interval` of health checks.
MIN_ENGINE = 25

#: The first release of Compose with optional `env_file`s.
MIN_COMPOSE = (2, 24)

#: Exit codes of a shell for a program that is missing, or cannot be executed.
_NOT_EXECUTABLE = (126, 127)

_CLEAR_LINE = re.compile("^(\033\\[2K)+")


class DockerBackend(Backend):
    """One project on the Docker Engine that the `docker` command reaches."""

    name = "docker"

    def __init__(self, project: Project, settings: Settings) -> None:
        self._project = project
        self._settings = settings
        self._image = f"denzel/{settings.compose_name}"
        self._engine = Engine(settings.compose_name)

    def check(self) -> None:
        try:
            version = runner.run(["docker", "version", "--format", "{{.Server.Version}}"]).strip()
        except CommandFailed as error:
            raise unreachable(error.stderr) from None
        release = re.match(r"\d+", version)
        if release and int(release[0]) < MIN_ENGINE:
            raise BackendUnavailable(
                f"Docker Engine {version} is too old.", hint=f"Install release {MIN_ENGINE} or newer."
            )
        try:
            compose_version = runner.run(["docker", "compose", "version"])
        except CommandFailed:
            old = " The older docker-compose (v1) is not enough." if shutil.which("docker-compose") else ""
            raise BackendUnavailable(
                f"Docker has no Compose plugin (v2).{old}",
                hint="Install it: https://docs.docker.com/compose/install/linux/",
            ) from None
        found = re.search(r"v?(\d+)\.(\d+)", compose_version)
        if found and (int(found[1]), int(found[2])) < MIN_COMPOSE:
            raise BackendUnavailable(
                f"Docker Compose {found[1]}.{found[2]} is too old.",
                hint=f"Install release {MIN_COMPOSE[0]}.{MIN_COMPOSE[1]} or newer.",
            )

    def is_launched(self) -> bool:
        return bool(self._engine.containers())

    def check_name_is_free(self) -> None:
        for container in self._engine.containers():
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
            for line in self._lines(compose.build_command(), {**stamps, "BUILDKIT_PROGRESS": "plain"}):
                output.append(line)
                for step in reader.feed(line):
                    on_step(step)
        except CommandFailed:
            raise explained(build_failure(self._image, output), self._project.root, "\n".join(output)) from None

    def up(self) -> None:
        try:
            self._run(compose.up_command())
        except CommandFailed as error:
            raise compose.up_failure(self._image, error) from None
        self._engine.prune_images()

    def stop(self) -> None:
        self._run(compose.command("stop"))

    def down(self, *, purge: bool) -> None:
        self._run(compose.down_command(purge=purge))
        if purge:
            self._engine.remove_image(self._image)
            self._engine.prune_images()

    def holds_data(self) -> bool:
        return self._engine.has_volumes()

    def services(self) -> dict[Service, ServiceReport]:
        return {service: ServiceReport(state=State.DOWN) for service in Service} | self._engine.reports()

    def logs(self, services: Collection[Service], *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        for line in self._lines(compose.logs_command(services, follow=follow, tail=tail)):
            # Compose 2.26 clears the screen's line first, even without a screen.
            yield _CLEAR_LINE.sub("", line)

    def shell(self, service: Service) -> int:
        self._engine.running(service)
        command = compose.shell_command(service, terminal=sys.stdin.isatty())
        return runner.attach(command, cwd=self._project.root, variables=self._settings.texts)

    def execute(self, service: Service, argv: Sequence[str], *, stdin: str = "") -> str:
        self._engine.running(service)
        command = compose.execute_command(service, argv)
        try:
            return self._run(command, stdin=stdin)
        except CommandFailed as error:
            if error.code in _NOT_EXECUTABLE and not error.stderr:
                # Docker prints the reason on the program's standard output.
                raise CommandFailed(command, error.code, f"{argv[0]}: cannot be run") from None
            raise

    def rehearse(self, service: Service, argv: Sequence[str]) -> str:
        try:
            return self._run(compose.rehearse_command(service, argv))
        except CommandFailed as error:
            raise compose.up_failure(self._image, error) from None

    def kill(self, service: Service) -> None:
        self._engine.kill(service)

    def processor_time(self) -> dict[Service, float]:
        return self._engine.processor_time()

    def redis(self, *command: str) -> Any:
        return self._engine.redis_cli(command)

    def _run(self, argv: list[str], *, stdin: str = "") -> str:
        return runner.run(argv, cwd=self._project.root, variables=self._settings.texts, stdin=stdin)

    def _lines(self, argv: list[str], variables: Mapping[str, str] | None = None) -> Iterator[str]:
        return runner.lines(argv, cwd=self._project.root, variables={**self._settings.texts, **(variables or {})})
