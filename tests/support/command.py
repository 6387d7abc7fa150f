"""Helpers for tests of the command: its folder, errors, status, and external programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from denzel.errors import DenzelError
from denzel.project.dotenv import KEYS
from denzel.services import Service, ServiceReport, State, Status, WorkerReport

NAME = "worker@iris"


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it the current folder, of a terminal in which no setting is set."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)


@contextmanager
def refused(kind: type[DenzelError], match: str) -> Iterator[None]:
    """An error of this kind is raised meanwhile, with a hint at what to do."""
    with pytest.raises(kind, match=match) as caught:
        yield
    assert caught.value.hint


def status(worker: State = State.UP, *, cause: str = "", hint: str = "", **services: State) -> Status:
    """A status with everything up, but for what is given."""
    ports = {Service.API: 8000, Service.MONITOR: 5555}
    return Status(
        services={
            service: ServiceReport(state=services.get(service.value, State.UP), port=ports.get(service))
            for service in Service
        },
        worker=WorkerReport(name=NAME, state=worker, cause=cause, hint=hint),
    )


def program(path: Path, text: str = "exit 0") -> Path:
    """A shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def tool(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails if DENZEL_REQUIRE_TOOLS is set."""
    # Debian's servers are in /usr/sbin.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None and not os.environ.get("DENZEL_REQUIRE_TOOLS"):
        pytest.skip(f"there is no {name} here")
    assert found, f"there is no {name} here"
    return found
