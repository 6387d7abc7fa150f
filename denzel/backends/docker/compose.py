"""Docker Compose: builders of argument lists, which run nothing by themselves, and the cause of a failed `up`."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from denzel.errors import CommandFailed, NotLaunched, PortTaken
from denzel.services import Service

_TAKEN_PORT = re.compile(r"(?:Bind for|listen tcp4?|host port(?: for)?) \S*?:(\d+)\b.*already (?:allocated|in use)")


def command(*arguments: str) -> list[str]:
    """A `docker compose` command, to be run in the project's folder."""
    return ["docker", "compose", *arguments]


def build_command() -> list[str]:
    """Build the one image, from which the project's own services run."""
    return command("build", Service.API.value)


def up_command() -> list[str]:
    return command("up", "--detach", "--no-build", "--remove-orphans", "--quiet-pull")


def down_command(*, purge: bool) -> list[str]:
    # Running tasks are lost with the data: there is nothing to wait for.
    return command("down", "--remove-orphans", *(["--volumes", "--timeout", "0"] if purge else []))


def logs_command(services: Collection[Service], *, follow: bool, tail: int | None) -> list[str]:
    options = [*(["--follow"] if follow else []), *(["--tail", str(tail)] if tail is not None else [])]
    return command("logs", "--no-color", *options, *(service.value for service in services))


def shell_command(service: Service, *, terminal: bool) -> list[str]:
    """A shell for a person at a terminal, or for piped input: bash, or sh without it."""
    script = "if command -v bash >/dev/null; then exec bash; else exec sh; fi"
    return command("exec", *([] if terminal else ["--no-TTY"]), service.value, "sh", "-c", script)


def execute_command(service: Service, argv: Sequence[str]) -> list[str]:
    """Run a program in a service, with the user and the environment of its container."""
    return command("exec", "--no-TTY", service.value, *argv)


def rehearse_command(service: Service, argv: Sequence[str]) -> list[str]:
    """Run a program in a new container of a service, which is removed afterwards."""
    return command("run", "--rm", "--no-deps", "--no-TTY", "--quiet-pull", service.value, *argv)


def up_failure(image: str, error: CommandFailed) -> Exception:
    """The error for a failed `up` that a user can act on, or else `error` itself."""
    taken = _TAKEN_PORT.search(error.stderr)
    if taken:
        return PortTaken(
            f"Port {taken[1]} is already taken.",
            hint="Stop the program that uses it; or denzel shutdown, then launch with --api-port or --monitor-port.",
        )
    if "No such image" in error.stderr:
        return NotLaunched(f"The image {image} is gone.", hint="Build it again: denzel updatereqs")
    return error
