"""Fixtures for every test, and the selection of tests for a run."""

from __future__ import annotations

import os
import shutil
import signal
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

# A run in the background of a shell ignores SIGINT, and so would all programs that its tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: What a test weighs when they are shared out between workers, by its mark: roughly, in seconds.
_WEIGHTS = {"slow": 40, "docker": 8, "local": 4}


# Behind pytest's own hook, which puts tests with the same launched project next to each other.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this run leaves out: `slow` without DENZEL_RUN_SLOW, `docker` without an engine.

    With DENZEL_REQUIRE_DOCKER, a missing engine fails its tests.
    """
    if not os.environ.get("DENZEL_RUN_SLOW"):
        _skip([item for item in items if item.get_closest_marker("slow")], "it takes long: make test-all runs it")
    marked = [item for item in items if item.get_closest_marker("docker")]
    if marked and not os.environ.get("DENZEL_REQUIRE_DOCKER") and not _docker_answers():
        _skip(marked, "no Docker Engine is running here")
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        items[:] = _shared_out(items, int(workers))


def _skip(items: list[pytest.Item], reason: str) -> None:
    for item in items:
        item.add_marker(pytest.mark.skip(reason=reason))


def _shared_out(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The tests in an order of which each worker begins an equal part: first those on real services, then quick ones.

    So that a worker which is through with its part takes over quick ones, and launches no project for a few tests.
    """
    real = [item for item in items if _weight(item)]
    # Its last module has costly fixtures, and each worker that takes over some of its tests would pay for them.
    quick = [item for item in items if not _weight(item)][::-1]
    ordered: list[pytest.Item] = []
    for left in range(workers, 0, -1):
        number, weight = 0, sum(map(_weight, real)) / left
        while number < len(real) and weight > 0:
            weight -= _weight(real[number])
            number += 1
        rest = max(0, (len(real) + len(quick)) // left - number)
        ordered += real[:number] + quick[:rest]
        del real[:number], quick[:rest]
    return ordered


def _weight(item: pytest.Item) -> int:
    marks = {mark.name for mark in item.iter_markers()}
    return 0 if "skip" in marks else max((_WEIGHTS[name] for name in marks & _WEIGHTS.keys()), default=0)


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
def package_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache of packages for all projects of this run; a project's own would be inside it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_CACHE_DIR", str(folder / "uv-cache"))
        yield


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
