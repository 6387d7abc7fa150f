"""Projects on real backends, shared by the tests of a module."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from driving import Driven, Receiver, denzel, receiving
from ports import find_free_port

from denzel import settings

LAB = Path(__file__).parent / "lab_pipeline.py"

Render = Callable[[], Driven]


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Render]:
    """Makes projects with the lab pipeline, under names and ports of their own; removes what they leave in Docker."""
    made: list[Driven] = []

    def make() -> Driven:
        name = f"lab-{secrets.token_hex(4)}"
        parent = tmp_path_factory.mktemp("projects")
        denzel("startproject", name, cwd=parent)
        driven = Driven(parent / name)
        shutil.copy(LAB, driven.root / "app" / "logic" / "pipeline.py")
        (driven.root / "requirements.txt").write_text("numpy\n")
        settings.change(
            driven.root / ".env",
            {
                "API_PORT": str(find_free_port()),
                "MONITOR_PORT": str(find_free_port()),
                "WORKER_CONCURRENCY": "2",
                "STOP_TIMEOUT": "10",
            },
        )
        made.append(driven)
        return driven

    try:
        yield make
    finally:
        for driven in made:
            driven.remove()


@pytest.fixture(scope="session")
def shared(render: Render) -> Driven:
    """One launched project for all tests that leave it up and whole."""
    driven = render()
    driven.denzel("launch")
    return driven


@pytest.fixture
def lab(shared: Driven) -> Driven:
    """The shared project, up: a test before may have stopped it, or broken it on purpose."""
    if not shared.status().get("ready"):
        shared.order()
        shutil.copy(LAB, shared.root / "app" / "logic" / "pipeline.py")
        shared.denzel("restart")
    return shared


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver
