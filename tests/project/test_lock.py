"""What a running command announces, and that only one changes a project at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from denzel.errors import ProjectLocked
from denzel.project import lock
from denzel.services import State

HOLD = """
import pathlib, sys
from denzel.project import lock
from denzel.services import State
with lock.exclusive(pathlib.Path(sys.argv[1])) as announce:
    announce(State.INSTALLING_PIP)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".denzel" / "activity"


@contextmanager
def another_command(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that changes the project until its standard input ends."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_nothing_is_announced_before_any_command(path: Path) -> None:
    assert lock.announced(path) is None


def test_what_is_announced_is_read_by_others(path: Path) -> None:
    with lock.exclusive(path) as announce:
        assert lock.announced(path) is None
        announce(State.INSTALLING_OS)
        assert lock.announced(path) is State.INSTALLING_OS
        announce(State.INSTALLING_PIP)
        assert lock.announced(path) is State.INSTALLING_PIP
        announce(None)
        assert lock.announced(path) is None
    assert lock.announced(path) is None


def test_nothing_is_announced_after_a_command_that_failed(path: Path) -> None:
    def fail() -> None:
        with lock.exclusive(path) as announce:
            announce(State.INSTALLING_OS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert lock.announced(path) is None


def test_a_second_command_is_told_to_wait(path: Path) -> None:
    with another_command(path), pytest.raises(ProjectLocked) as busy, lock.exclusive(path):
        pass
    assert "denzel status --live" in busy.value.hint


def test_the_other_command_is_not_disturbed(path: Path) -> None:
    with another_command(path):
        with pytest.raises(ProjectLocked), lock.exclusive(path):
            pass
        assert lock.announced(path) is State.INSTALLING_PIP


def test_a_command_that_is_killed_leaves_no_trace(path: Path) -> None:
    with another_command(path) as process:
        process.kill()
        process.wait()
        assert lock.announced(path) is None
        with lock.exclusive(path) as announce:
            announce(State.INSTALLING_OS)


def test_a_command_begins_when_the_other_ends_in_time(path: Path) -> None:
    with another_command(path) as process:
        assert process.stdin is not None
        process.stdin.close()
        with lock.exclusive(path):
            pass
