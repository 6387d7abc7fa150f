"""Programs that a benchmark runs, and Python environments of their own for the peers."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

#: Where environments are kept from run to run.
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "denzel-benchmarks"


class Failed(Exception):
    """A system cannot be installed, or started, or does not answer."""


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
    """What a command prints; raises Failed."""
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


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
