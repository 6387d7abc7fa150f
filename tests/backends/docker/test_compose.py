"""Commands for Docker Compose, and the causes of its failures."""

from __future__ import annotations

import pytest

from denzel.backends.docker.compose import (
    build_command,
    down_command,
    execute_command,
    logs_command,
    shell_command,
    up_command,
    up_failure,
)
from denzel.errors import CommandFailed, PortTaken
from denzel.services import Service


def test_build_command_builds_the_one_image() -> None:
    assert build_command() == ["docker", "compose", "build", "api"]


def test_up_command_never_builds() -> None:
    assert up_command()[:5] == ["docker", "compose", "up", "--detach", "--no-build"]


def test_down_command_keeps_the_volume_unless_purging() -> None:
    assert down_command(purge=False) == ["docker", "compose", "down", "--remove-orphans"]
    assert down_command(purge=True) == [
        *("docker", "compose", "down", "--remove-orphans", "--volumes", "--timeout", "0")
    ]


def test_logs_command_names_the_services() -> None:
    assert logs_command([Service.API, Service.REDIS], follow=False, tail=None)[-2:] == ["api", "redis"]
    assert logs_command([Service.API], follow=True, tail=0)[-4:] == ["--follow", "--tail", "0", "api"]


def test_shell_command_asks_for_a_terminal_only_where_there_is_one() -> None:
    assert "--no-TTY" not in shell_command(Service.API, terminal=True)
    assert shell_command(Service.API, terminal=False)[:5] == ["docker", "compose", "exec", "--no-TTY", "api"]


def test_execute_command_asks_for_no_terminal_and_keeps_the_arguments() -> None:
    command = execute_command(Service.DENZEL, ["python", "-m", "app", "--help"])
    assert command == ["docker", "compose", "exec", "--no-TTY", "denzel", "python", "-m", "app", "--help"]


TAKEN = {
    "by a container": "Bind for 0.0.0.0:8000 failed: port is already allocated",
    "by a program": "Error starting userland proxy: listen tcp4 0.0.0.0:8000: bind: address already in use",
    "by a program, engine 28": "failed to bind host port for 0.0.0.0:8000:172.18.0.3:8080/tcp: address already in use",
    "by a program, engine 29": "failed to bind host port 0.0.0.0:8000/tcp: address already in use",
    "by a program, Docker Desktop": "ports are not available: exposing port TCP 0.0.0.0:8000 -> 127.0.0.1:0:"
    " listen tcp 0.0.0.0:8000: bind: address already in use",
}


@pytest.mark.parametrize("said", TAKEN.values(), ids=TAKEN)
def test_up_on_a_port_that_was_taken_meanwhile(said: str) -> None:
    before = (
        "Error response from daemon: driver failed programming external connectivity on endpoint iris-api-1 (6dc25b7)"
    )
    error = CommandFailed(up_command(), 1, f" Container iris-redis-1  Started\n{before}: {said}\n")
    taken = up_failure("denzel/iris", error)
    assert isinstance(taken, PortTaken)
    assert "Port 8000 " in str(taken)
    assert "--api-port" in taken.hint
