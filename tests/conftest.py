"""What every test may ask for: a real Redis-compatible server, a Docker Engine, a free port."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from doubles.receiver import Receiver, receiving
from redis import Redis
from support.paths import REPOSITORY
from support.ports import find_free_port
from support.redis_server import redis_server


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


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """The endpoint of callbacks, on a port of its own."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder that can be given to another user: each run of pytest closes its own folders to all but their owner."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="denzel-tests-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server (Valkey), started for this run, with a password as in a deployment."""
    with redis_server(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of an empty server."""
    with Redis.from_url(redis_url, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of an earlier release, and what its services left in Redis: tests/data/README.md describes both."""
    folder = tmp_path_factory.mktemp("earlier")
    shutil.unpack_archive(REPOSITORY / "tests" / "data" / "a2a39c1.tar.xz", folder, filter="data")
    return folder
