"""The service `denzel` from its entrypoint, with small programs in place of worker and sender."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from support.paths import PROJECT
from support.waiting import until

from app.serving.settings import Settings
from app.serving.store import keys
from app.serving.store.workers import REPORT_TTL, WorkerRegistry, WorkerState
from app.serving.supervisor.__main__ import stop_timeout
from denzel.services import worker_name

NAME = worker_name("iris")

NOTES_ARGUMENTS = """
import os, sys, time
from app.serving.heartbeat import Heartbeat
heartbeat, parent = Heartbeat.from_environment(os.environ), os.getppid()
with open("notes", "a") as notes:
    notes.write(f"{__package__} {sys.argv[1:]}\\n")
while os.getppid() == parent:
    heartbeat.beat()
    time.sleep(0.02)
"""

Health = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project that has the supervisor as it is, and other programs below it."""
    shutil.copytree(PROJECT / "entrypoints", tmp_path / "entrypoints")
    serving = tmp_path / "app" / "serving"
    shutil.copytree(PROJECT / "app" / "serving" / "supervisor", serving / "supervisor")
    shutil.copytree(PROJECT / "app" / "serving" / "store" / "lua", serving / "store" / "lua")
    shutil.copy(PROJECT / "app" / "serving" / "heartbeat.py", serving)
    for name in ("worker", "callbacks"):
        (serving / name).mkdir()
        (serving / name / "__main__.py").write_text(NOTES_ARGUMENTS)
    return tmp_path


@pytest.fixture
def environ(redis_url: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PROJECT_NAME": "iris", "REDIS_URL": redis_url}


@pytest.fixture
def start(folder: Path, environ: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the entrypoint with these variables."""
    started: list[subprocess.Popen[bytes]] = []

    def run(**variables: str) -> subprocess.Popen[bytes]:
        command = [folder / "entrypoints" / "denzel.sh"]
        started.append(subprocess.Popen(command, cwd=folder, env={**environ, **variables}))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def noted(folder: Path) -> list[str]:
    path = folder / "notes"
    return sorted(path.read_text().splitlines()) if path.exists() else []


@pytest.mark.parametrize(("concurrency", "passed"), [("", []), ("3", ["--concurrency", "3"])])
def test_the_entrypoint_starts_worker_and_sender(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]], concurrency: str, passed: list[str]
) -> None:
    service = start(WORKER_CONCURRENCY=concurrency)
    until(lambda: len(noted(folder)) == 2, what="both children")
    assert noted(folder) == ["app.serving.callbacks []", f"app.serving.worker {['--hostname', NAME, *passed]}"]
    service.send_signal(signal.SIGTERM)
    assert service.wait(20) == 0


def test_the_time_to_stop_is_that_of_the_settings() -> None:
    for environ in ({}, {"STOP_TIMEOUT": " "}, {"STOP_TIMEOUT": "17.5"}):
        assert stop_timeout(environ) == Settings.from_environment(environ).stop_timeout


def test_an_invalid_time_is_left_for_the_worker_to_refuse(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    (folder / "app/serving/worker/__main__.py").write_text("import sys; sys.exit('STOP_TIMEOUT is ...')")
    assert start(STOP_TIMEOUT="soon").wait(20) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux'")
def test_the_supervisor_is_small(folder: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """An interpreter takes 9 to 11 MB."""
    service = start()
    until(lambda: len(noted(folder)) == 2, what="both children")
    bare = subprocess.run([sys.executable, "-c", "print(open('/proc/self/status').read())"], capture_output=True)
    sizes = [
        int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])
        for text in (Path(f"/proc/{service.pid}/status").read_text(), bare.stdout.decode())
    ]
    assert sizes[0] - sizes[1] < 1500, sizes


# ------------------------------------------------------------------ orders


@pytest.fixture
def order(environ: dict[str, str]) -> Health:
    """Runs `health.sh touch` or `health.sh forget` as the supervisor does."""

    def run(what: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "entrypoints/health.sh", what]
        return subprocess.run(command, cwd=PROJECT, env={**environ, **variables}, capture_output=True, text=True)

    return run


def registry(broker: Redis, host: str | None = None) -> WorkerRegistry:
    return WorkerRegistry(broker, host=host)


def test_touch_renews_a_report_as_it_is(broker: Redis, order: Health) -> None:
    registry(broker).heartbeat(NAME, up=(), loading={17})
    broker.expire(keys.worker(NAME), 3)
    seen = dict(broker.hgetall(keys.worker(NAME)))
    assert order("touch").returncode == 0
    assert 3 < broker.ttl(keys.worker(NAME)) <= REPORT_TTL
    renewed = dict(broker.hgetall(keys.worker(NAME)))
    (field,) = (name for name in seen if name.startswith("seen:"))
    assert float(renewed.pop(field)) > float(seen.pop(field))
    assert renewed == seen


def test_touch_makes_no_report(broker: Redis, order: Health) -> None:
    assert order("touch").returncode == 0
    assert not broker.exists(keys.worker(NAME))


def test_forget_removes_the_report_of_this_host(broker: Redis, order: Health) -> None:
    registry(broker).heartbeat(NAME, up={17}, loading={18})
    assert order("forget").returncode == 0
    assert registry(broker).read() == []
    assert not broker.exists(keys.worker(NAME))
    assert not broker.smembers(keys.WORKERS)


def test_forget_leaves_what_other_hosts_report(broker: Redis, order: Health) -> None:
    registry(broker).heartbeat(NAME, up={17}, loading=())
    registry(broker, "elsewhere").report_process(NAME, 17, WorkerState.ERROR, "no such file")
    assert order("forget").returncode == 0
    assert [(report.state, report.cause) for report in registry(broker).read()] == [(WorkerState.ERROR, "no such file")]


@pytest.mark.parametrize("what", ["touch", "forget"])
def test_an_order_that_redis_refuses_fails(what: str, broker: Redis, order: Health, free_port: int) -> None:
    broker.set(keys.worker(NAME), "no hash")
    assert order(what).returncode != 0
    assert order(what, REDIS_URL=f"redis://:x@127.0.0.1:{free_port}/0").returncode != 0
