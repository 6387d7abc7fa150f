"""Driving a project as a user does: through the denzel command and over HTTP."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
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
class Driven:
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
        """A command that does not wait for the model, or hears that it fails, may end before the api answers."""
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
        """What tells one installation of the requirements from another."""
        if self.backend == "docker":
            layers = "{{range .RootFS.Layers}}{{.}} {{end}}"
            # The last layer is the project's code.
            return docker("image", "inspect", "--format", layers, f"denzel/{self.name}").split()[:-1]
        return [str((self.root / ".denzel" / "venv").readlink())]

    def post(self, body: Any, **headers: str) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.post(f"{self.api}/predict", data=json.dumps(body), headers=named, timeout=60)

    def submit(self, body: Any) -> str:
        answer = self.post(body, prefer="respond-async")
        assert answer.status_code == 200, answer.text
        task_id: str = answer.json()["data"]["task_id"]
        return task_id

    def task(self, task_id: str) -> dict[str, Any]:
        answer = requests.get(f"{self.api}/status/{task_id}", timeout=30)
        assert answer.status_code == 200, answer.text
        record: dict[str, Any] = answer.json()
        return record

    def ended(self, task_id: str, *, within: float = 60) -> dict[str, Any]:
        """The task's record once it has ended."""
        until(
            lambda: self.task(task_id)["status"] in ("SUCCESS", "FAILURE", "REVOKED"),
            within=within,
            what=f"task {task_id} to end",
        )
        return self.task(task_id)

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """What `denzel tasks` or `denzel callbacks` lists."""
        entries: list[dict[str, Any]] = json.loads(self.denzel(*arguments, "--json"))
        return entries

    def order(self, **orders: Any) -> None:
        """What the lab pipeline's load_model does from the next start on."""
        named = {name.replace("_", " "): value for name, value in orders.items()}
        (self.root / "app" / "assets" / "orders.json").write_text(json.dumps(named))

    @contextmanager
    def held(self) -> Iterator[dict[str, str]]:
        """An order with which tasks of the lab pipeline run until the end of the `with`."""
        release = self.root / "app" / "assets" / f"release-{secrets.token_hex(4)}"
        try:
            yield {"until": release.name}
        finally:
            release.touch()

    @contextmanager
    def occupied(self) -> Iterator[list[str]]:
        """Both processes that predict run a task until the end of the `with`: the ids of these tasks."""
        with self.held() as order:
            bodies = [{**order, "echo": number} for number in range(2)]
            tasks = [self.submit(body) for body in bodies]

            def both_run() -> bool:
                # STARTED says only that it was taken.
                log = self.denzel("logworker")
                return all(f"processing {body}" in log for body in bodies)

            until(both_run, what="both processes to be busy")
            yield tasks

    def remove(self) -> None:
        """Whatever is left of the project in Docker."""
        self.denzel("shutdown", "--purge", "--yes")


Render = Callable[..., Driven]


@dataclass
class Receiver:
    """A real HTTP server that keeps the callbacks it gets, and answers them with `status`."""

    port: int
    status: int = 200
    received: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)

    def uri(self, backend: str) -> str:
        """Where the services of a backend reach it."""
        host = "host.docker.internal" if backend == "docker" else "127.0.0.1"
        return f"http://{host}:{self.port}/stash"

    def bodies(self) -> list[Any]:
        return [body for _, body in self.received]


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver(port=0)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.contents.append(content)
            receiver.received.append((dict(self.headers), json.loads(content)))
            self.send_response(receiver.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    # Containers come in over Docker's bridge, so loopback alone is not enough.
    with ThreadingHTTPServer(("0.0.0.0", 0), Handler) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
