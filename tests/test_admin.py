"""The client of the real app.serving.admin, when Redis does not answer."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from doubles.backend import FakeBackend
from support.ports import find_free_port

from denzel import admin, runner
from denzel.errors import CommandFailed, ServiceNotRunning
from denzel.project import dotenv
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import Service


class LocalPrograms(FakeBackend):
    """A backend that runs the programs of its services on this machine."""

    folder: Path
    variables: Mapping[str, str]

    def execute(self, service: Service, argv: Sequence[str], *, stdin: str = "") -> str:
        assert argv[0] == "python"
        return runner.run([sys.executable, *argv[1:]], cwd=self.folder, variables=self.variables, stdin=stdin)


@pytest.fixture(params=["new", "earlier"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, earlier: Path) -> LocalPrograms:
    """Of a new project, and of one whose program is another module: app/operations.py."""
    if request.param == "new":
        project = start_project("iris", tmp_path)
    else:
        project = Project(shutil.copytree(earlier / "project", tmp_path / "iris"))
    backend = LocalPrograms(project, dotenv.load(project.env_file, {}))
    backend.folder = project.root
    return backend


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are accepted and never answered, as by a server that hangs."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield server.getsockname()[1]


REQUESTS: dict[str, Callable[[LocalPrograms], Any]] = {
    "callbacks": admin.read_callbacks,
    "tasks": lambda backend: admin.read_tasks(backend, limit=9),
    "quarantined": admin.read_quarantined,
    "resend": lambda backend: admin.resend(backend, ["an-id"]),
    "replay": lambda backend: admin.replay(backend, ["an-id"]),
}


@pytest.mark.parametrize("ask", REQUESTS.values(), ids=REQUESTS)
def test_a_redis_that_is_down_is_reported(backend: LocalPrograms, ask: Callable[[LocalPrograms], Any]) -> None:
    backend.variables = {"REDIS_URL": f"redis://127.0.0.1:{find_free_port()}/0"}
    with pytest.raises(ServiceNotRunning, match=r"^redis does not answer: .*Connection refused\.$") as caught:
        ask(backend)
    assert caught.value.hint == "denzel logs --service redis"


def test_a_redis_that_hangs_is_reported(backend: LocalPrograms, silent_port: int) -> None:
    backend.variables = {"REDIS_URL": f"redis://127.0.0.1:{silent_port}/0"}
    with pytest.raises(ServiceNotRunning, match=r"^redis does not answer: Timeout .*[^.]\.$"):
        admin.read_tasks(backend, limit=9)


def test_any_other_failure_is_passed_on_unchanged(backend: LocalPrograms) -> None:
    backend.variables = {"REDIS_URL": "redis://127.0.0.1:1/0", "RESULT_LIFETIME": "for ever"}
    with pytest.raises(CommandFailed) as caught:
        admin.read_tasks(backend, limit=9)
    assert "RESULT_LIFETIME" in caught.value.detail
    (backend.folder / "app" / "__init__.py").write_text("raise ValueError('broken')\n")
    with pytest.raises(CommandFailed, match="exit code 1") as caught:
        admin.read_tasks(backend, limit=9)
    assert "ValueError: broken" in caught.value.detail
