"""A small project for the tests of drill and bench."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from doubles.small_project import SmallBackend, SmallProject, launched, small_project
from support.command import enter

from denzel import cli


@pytest.fixture
def small() -> Iterator[SmallProject]:
    with small_project() as small:
        yield small


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: SmallProject) -> Iterator[SmallBackend]:
    """A launched project that is the current folder."""
    with launched(tmp_path, small, BACKEND="local") as (project, backend):
        monkeypatch.setattr(cli, "open_backend", lambda *_: backend)
        enter(project.root, monkeypatch)
        yield backend
