"""denzel as a system under measurement: a project that is made, launched and shut down as by a user."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from machine import memory
from programs import Failed, free_ports, run
from system import ANSWER, IRIS, REQUEST, REQUEST_WITH_CALLBACK, Request, System

from denzel import __version__
from denzel.project import dotenv

DENZEL = str(Path(sys.executable).parent / "denzel")
PIPELINES = Path(__file__).parent / "pipelines"

#: Environment variables of each process of a local project: its folder, and its name in supervisord.
FOLDER = "DENZEL_PROJECT_FOLDER"
SERVICE = "SUPERVISOR_PROCESS_NAME"


class Project:
    """A project with the tutorial's model on one backend; several systems may use it, one after another."""

    def __init__(self, backend: str, work: Path) -> None:
        self.backend = backend
        self.api_port, monitor_port = free_ports(2)
        self.root = work / f"bench-{backend}-{secrets.token_hex(3)}"
        self._first = {"API_PORT": str(self.api_port), "MONITOR_PORT": str(monitor_port), "STOP_TIMEOUT": "10"}
        self._ready = False

    @property
    def sync_request(self) -> Request:
        return Request(path="/predict", body=REQUEST, headers={"Prefer": "wait=30"}, answer=ANSWER)

    @property
    def async_request(self) -> Request:
        host = "host.docker.internal" if self.backend == "docker" else "127.0.0.1"
        return Request(
            path="/predict",
            body=REQUEST_WITH_CALLBACK,
            headers={"Prefer": "respond-async"},
            callback=ANSWER,
            callback_host=host,
        )

    def make(self) -> None:
        """Make it and launch it once, so that its requirements are installed; raises Failed."""
        if self._ready:
            return
        self.root.parent.mkdir(parents=True, exist_ok=True)
        run(DENZEL, "startproject", self.root.name, cwd=self.root.parent)
        app = self.root / "app"
        run(sys.executable, str(IRIS / "train.py"), str(app / "assets" / "iris_svc.pkl"), cwd=self.root)
        shutil.copy(IRIS / "pipeline.py", app / "logic" / "iris.py")
        # A pickled model requires the versions that it was trained with.
        pins = [f"{name}=={importlib.metadata.version(name)}\n" for name in ("numpy", "scikit-learn")]
        (self.root / "requirements.txt").write_text("".join(pins))
        self.use("single", self._first)
        self.denzel("launch", "--backend", self.backend)
        self.denzel("stop")
        self._ready = True

    def denzel(self, *arguments: str) -> str:
        """The output of a denzel command; raises Failed."""
        return run(DENZEL, *arguments, cwd=self.root)

    def use(self, pipeline: str, changes: dict[str, str]) -> None:
        """Install a pipeline and change settings, for the next start."""
        shutil.copy(PIPELINES / f"{pipeline}.py", self.root / "app" / "logic" / "pipeline.py")
        dotenv.change(self.root / ".env", changes)

    def has_setting(self, key: str) -> bool:
        """True when .env has such a setting."""
        return f"\n{key}=" in (self.root / ".env").read_text()

    def start(self) -> subprocess.Popen[str]:
        """Run `denzel start` without waiting for it."""
        return subprocess.Popen(
            [DENZEL, "start"],
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def remove(self) -> None:
        """Shut it down, and remove it."""
        if (self.root / ".env").exists():
            with suppress(Failed):
                self.denzel("shutdown", "--purge", "--yes")
        shutil.rmtree(self.root, ignore_errors=True)

    def memory(self) -> dict[str, float]:
        """Megabytes of PSS, by service."""
        processes: dict[str, list[int]] = defaultdict(list)
        for service, process in self._in_containers() if self.backend == "docker" else self._on_this_machine():
            processes[service].append(process)
        return {service: memory(found) for service, found in sorted(processes.items())}

    def _on_this_machine(self) -> Iterator[tuple[str, int]]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                variables = process.environ()
                if variables.get(FOLDER) == os.path.realpath(self.root):
                    yield variables.get(SERVICE, "supervisord"), process.pid

    def _in_containers(self) -> Iterator[tuple[str, int]]:
        import docker

        name = dotenv.read(self.root / ".env")["COMPOSE_PROJECT_NAME"]
        try:
            client = docker.from_env()
            for container in client.containers.list(filters={"label": f"com.docker.compose.project={name}"}):
                for row in container.top(ps_args="-eo pid")["Processes"]:
                    yield container.labels["com.docker.compose.service"], int(row[0])
        except docker.errors.DockerException as error:
            raise Failed(f"Docker does not list the processes: {error}") from None


class Denzel(System):
    """A project with the tutorial's pipeline, with or without predict_batch."""

    def __init__(self, project: Project, *, batch: bool) -> None:
        self.name = f"denzel-{project.backend}{'-batch' if batch else ''}"
        self.title = f"**denzel**, {project.backend}{', predict_batch' if batch else ''}"
        self.versions = __version__
        self.port = project.api_port
        self.sync = project.sync_request
        self.accept = project.async_request
        self._project = project
        self._pipeline = "batch" if batch else "single"
        self._starting: subprocess.Popen[str] | None = None

    def prepare(self) -> None:
        self._project.make()
        self.shares = self._project.has_setting("MODEL_SHARING")

    def start(self, *, large: bool = False, shared: bool = False) -> None:
        changes = {"WORKER_CONCURRENCY": "2" if large else ""}
        if self.shares:
            changes["MODEL_SHARING"] = "fork" if shared else "process"
        self._project.use("large" if large else self._pipeline, changes)
        self._starting = self._project.start()

    def check_started(self) -> None:
        if self._starting is not None and self._starting.poll():
            raise Failed(f"denzel start exited with {self._starting.returncode}: {self._output()}")

    def stop(self) -> None:
        if self._starting is not None:
            self._output()
            self._starting.wait()
            self._starting = None
            self._project.denzel("stop")

    def remove(self) -> None:
        self._project.remove()

    def memory(self) -> dict[str, float]:
        return self._project.memory()

    def _output(self) -> str:
        return " ".join(self._starting.communicate()[0].split())[-400:] if self._starting else ""
