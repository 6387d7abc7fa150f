"""Projects on real backends, shared by the tests of a module."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.driving import BACKENDS, Driven, Render, denzel
from support.ports import find_free_port

from denzel.project import dotenv


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory, package_cache: None) -> Iterator[Render]:
    """Makes projects with the lab pipeline, new ones or copies of a folder, under names and ports of their own; removes
    what they leave behind.
    """
    made: list[Driven] = []

    def make(backend: str, copy_of: Path | None = None) -> Driven:
        name = f"lab-{secrets.token_hex(4)}"
        parent = tmp_path_factory.mktemp("projects")
        if copy_of:
            shutil.copytree(copy_of, parent / name)
        else:
            denzel("startproject", name, cwd=parent)
        driven = Driven(parent / name, backend)
        driven.write_pipeline()
        (driven.root / "requirements.txt").write_text("numpy\n")
        dotenv.change(
            driven.root / ".env",
            {
                "COMPOSE_PROJECT_NAME": name,
                # Also where no launch gets as far as to write it.
                "BACKEND": backend,
                "API_PORT": str(find_free_port()),
                "MONITOR_PORT": str(find_free_port()),
                "WORKER_CONCURRENCY": "2",
                "STOP_TIMEOUT": "10",
            },
        )
        made.append(driven)
        return driven

    yield make
    for driven in made:
        driven.remove()


@pytest.fixture(scope="session", params=BACKENDS)
def shared(request: pytest.FixtureRequest, render: Render) -> Driven:
    """One launched project a backend, for all tests that leave it up and whole."""
    driven = render(request.param)
    driven.launch()
    return driven


@pytest.fixture
def lab(shared: Driven) -> Driven:
    """The shared project, up: a test before may have stopped it, or broken it on purpose."""
    if not shared.is_ready():
        shared.order()
        shared.write_pipeline()
        shared.denzel("restart")
    return shared
