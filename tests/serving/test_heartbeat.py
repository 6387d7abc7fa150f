"""heartbeat.py: bytes of a child in the supervisor's pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app.serving.heartbeat import Heartbeat


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_each_call_writes_its_byte(pipe: tuple[int, int]) -> None:
    heartbeat = Heartbeat.from_environment({"HEARTBEAT_FD": str(pipe[1])})
    heartbeat.beat()
    heartbeat.loading()
    heartbeat.loaded()
    heartbeat.beat()
    assert os.read(pipe[0], 100) == b".LR."


def test_a_full_pipe_holds_nobody_up(pipe: tuple[int, int]) -> None:
    heartbeat = Heartbeat(pipe[1])
    for _ in range(100_000):
        heartbeat.beat()
    assert len(os.read(pipe[0], 1 << 20)) < 100_000


def test_a_broken_pipe_is_no_error() -> None:
    source, output = os.pipe()
    os.close(source)
    Heartbeat(output).beat()
    os.close(output)


def test_without_a_supervisor_nothing_is_written() -> None:
    for environ in ({}, {"HEARTBEAT_FD": ""}):
        heartbeat = Heartbeat.from_environment(environ)
        heartbeat.beat()
        heartbeat.loading()
        heartbeat.loaded()


def test_a_program_that_the_child_starts_has_no_part_in_it(pipe: tuple[int, int]) -> None:
    os.set_inheritable(pipe[1], True)
    environ = {**os.environ, "HEARTBEAT_FD": str(pipe[1])}
    Heartbeat.from_environment(environ)
    code = f"import os; print(os.environ.get('HEARTBEAT_FD')); os.fstat({pipe[1]})"
    done = subprocess.run([sys.executable, "-c", code], env=environ, close_fds=False, capture_output=True, text=True)
    assert done.stdout == "None\n"
    assert "Bad file descriptor" in done.stderr
