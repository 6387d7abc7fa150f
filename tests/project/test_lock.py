"""The lock of a project: one changing command at a time, and the state it publishes."""

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
with lock.exclusive(pathlib.Path(sys.argv[1])) as set_state:
    set_state(State.INSTALLING_PIP)
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


def test_there_is_no_state_before_any_command(path: Path) -> None:
    assert lock.read_state(path) is None


def test_a_published_state_is_read_by_others(path: Path) -> None:
    with lock.exclusive(path) as set_state:
        assert lock.read_state(path) is None
        set_state(State.INSTALLING_OS)
        assert lock.read_state(path) is State.INSTALLING_OS
        set_state(State.INSTALLING_PIP)
        assert lock.read_state(path) is State.INSTALLING_PIP
        set_state(None)
        assert lock.read_state(path) is None
    assert lock.read_state(path) is None


def test_no_state_is_left_by_a_command_that_failed(path: Path) -> None:
    def fail() -> None:
        with lock.exclusive(path) as set_state:
            set_state(State.INSTALLING_OS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert lock.read_state(path) is None


def test_a_second_command_is_refused(path: Path) -> None:
    with another_command(path), pytest.raises(ProjectLocked) as busy, lock.exclusive(path):
        pass
    assert "denzel status --live" in busy.value.hint


def test_the_other_command_is_not_disturbed(path: Path) -> None:
    with another_command(path):
        with pytest.raises(ProjectLocked), lock.exclusive(path):
            pass
        assert lock.read_state(path) is State.INSTALLING_PIP


def test_a_command_that_is_killed_leaves_no_trace(path: Path) -> None:
    with another_command(path) as process:
        process.kill()
        process.wait()
        assert lock.read_state(path) is None
        with lock.exclusive(path) as set_state:
            set_state(State.INSTALLING_OS)


def test_a_command_begins_when_the_other_ends_in_time(path: Path) -> None:
    with another_command(path) as process:
        assert process.stdin is not None
        process.stdin.close()
        with lock.exclusive(path):
            pass
