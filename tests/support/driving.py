"""Driver of a project, as a user: through the denzel command and over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from support.lab import LabProject
from support.waiting import until

from denzel.backends.local.supervisor import Supervisor
from denzel.project.dotenv import read

#: Values of a parameter `backend`, each with the mark of what it needs.
BACKENDS = [pytest.param("docker", marks=pytest.mark.docker), pytest.param("local", marks=pytest.mark.local)]

DENZEL = str(Path(sys.executable).parent / "denzel")


def denzel(
    *arguments: str, cwd: Path, code: int = 0, variables: Mapping[str, str] | None = None, stdin: str | None = None
) -> str:
    """Run the command; its output and errors together. Fails, showing them, unless it exits with `code`."""
    done = subprocess.run(
        [DENZEL, *arguments],
        cwd=cwd,
        env={**os.environ, **(variables or {})},
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == code, f"denzel {' '.join(arguments)} exited with {done.returncode}:\n{done.stdout}"
    assert "denzel/cli.py" not in done.stdout, f"a traceback of denzel's own:\n{done.stdout}"
    return done.stdout


def docker(*arguments: str, cwd: Path | None = None) -> str:
    done = subprocess.run(["docker", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}{done.stdout}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Driven(LabProject):
    """A project folder that a test drives, on one of the backends."""

    root: Path
    backend: str = "docker"

    def launch(self, *options: str) -> str:
        return self.denzel("launch", "--backend", self.backend, *options)

    def denzel(self, *arguments: str, code: int = 0, stdin: str | None = None) -> str:
        return denzel(*arguments, cwd=self.root, code=code, stdin=stdin)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.denzel("status", "--json"))
        return status

    def states(self) -> dict[str, str]:
        return {name: service["state"] for name, service in self.status()["services"].items()}

    def until_the_api_is_up(self) -> None:
        """Wait for the api: a command that does not wait for the model, or that fails with it, may end earlier."""
        until(lambda: self.states()["api"] == "UP", within=60, what="the api")

    @property
    def name(self) -> str:
        return read(self.root / ".env")["COMPOSE_PROJECT_NAME"]

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{read(self.root / '.env')['API_PORT']}"

    @property
    def monitor(self) -> str:
        return f"http://127.0.0.1:{read(self.root / '.env')['MONITOR_PORT']}"

    @property
    def log(self) -> str:
        """The worker's log."""
        return (self.root / "logs" / "worker.log").read_text()

    def is_ready(self) -> bool:
        """True when every service answers and the worker is up, asked without the half second that a command takes."""
        try:
            return self.get("/health/ready").ok and requests.get(f"{self.monitor}/healthcheck", timeout=30).ok
        except requests.RequestException:
            return False

    def pid(self, service: str) -> int:
        """The main process of a service; 0 while there is none."""
        if self.backend == "docker":
            return int(docker("inspect", "--format", "{{.State.Pid}}", self.container(service)))
        states = Supervisor(self.root).states() or {}
        return int(states[service]["pid"])

    def container(self, service: str) -> str:
        """The id of a service's container."""
        labels = [f"label=com.docker.compose.project={self.name}", f"label=com.docker.compose.service={service}"]
        return docker("ps", "--all", "--quiet", "--no-trunc", *[part for label in labels for part in ("-f", label)])

    def installed(self) -> list[str]:
        """Identity of an installation of the requirements."""
        if self.backend == "docker":
            layers = "{{range .RootFS.Layers}}{{.}} {{end}}"
            # The last layers are the assets and the code.
            return docker("image", "inspect", "--format", layers, f"denzel/{self.name}").split()[:-2]
        return [str((self.root / ".denzel" / "venv").readlink())]

    def ended(self, task_id: str, *, within: float = 60) -> dict[str, Any]:
        """The task's record once it has ended."""

        def record() -> dict[str, Any] | None:
            found = self.task(task_id)
            return found if found["status"] in ("SUCCESS", "FAILURE", "REVOKED") else None

        return until(record, within=within, what=f"task {task_id} to end")

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """Entries of `denzel tasks` or `denzel callbacks`."""
        entries: list[dict[str, Any]] = json.loads(self.denzel(*arguments, "--json"))
        return entries

    @contextmanager
    def occupied(self) -> Iterator[list[str]]:
        """Occupy both predicting processes until the end of the `with`; yields the ids of their tasks."""
        with self.held() as order:
            bodies = [{**order, "echo": number} for number in range(2)]
            tasks = [self.submit(body) for body in bodies]

            def both_run() -> bool:
                # STARTED means only that it was taken.
                log = self.log
                return all(f"processing {body}" in log for body in bodies)

            until(both_run, what="both processes to be busy")
            yield tasks

    def remove(self) -> None:
        """Remove whatever is left of the project in Docker."""
        self.denzel("shutdown", "--purge", "--yes")


Render = Callable[..., Driven]
