"""Processes of a project: finding and ending them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.waiting import until

from denzel.backends.local.processes import MARK, end_project, kill_project, kill_tree, processes_of, processor_seconds

# A parent that ends its child when it is asked to end, one that starts a child then, and one that does not listen.
FAMILY = "trap 'kill $child; echo >goodbye; exit' TERM; sleep 60 & child=$!; echo $child >child; wait"
RESTARTING = "trap 'sleep 60 & echo $! >later' TERM; echo $$ >child; while :; do sleep 0.05; done"
DEAF = "trap '' TERM; echo $$ >child; while :; do sleep 0.05; done"


@contextmanager
def started(folder: Path, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell of the project in this folder; all of it is gone afterwards."""
    environment = {**os.environ, MARK: os.path.realpath(folder)}
    shell = subprocess.Popen(["sh", "-c", script], cwd=folder, env=environment, start_new_session=True)
    try:
        until(lambda: (folder / "child").exists() and (folder / "child").read_text().strip(), what="the child")
        yield shell
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


@pytest.fixture
def family(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with started(tmp_path, FAMILY) as shell:
        yield shell


def child(folder: Path) -> int:
    return int((folder / "child").read_text())


def test_processes_of_a_project_are_found_by_its_mark(family: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert {process.pid for process in processes_of(tmp_path)} == {family.pid, child(tmp_path)}
    assert processes_of(tmp_path.parent) == []


def test_they_are_found_when_their_folder_was_moved(family: subprocess.Popen[bytes], tmp_path: Path) -> None:
    moved = tmp_path.rename(tmp_path.parent / "moved")
    assert {process.pid for process in processes_of(moved)} == {family.pid, child(moved)}


def test_processes_end_on_sigterm(family: subprocess.Popen[bytes], tmp_path: Path) -> None:
    end_project(tmp_path, within=10)
    assert (tmp_path / "goodbye").exists()
    until(lambda: processes_of(tmp_path) == [], what="the child to be gone with its parent")


def test_a_process_that_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    with started(tmp_path, DEAF) as deaf:
        end_project(tmp_path, within=0.2)
        assert not psutil.pid_exists(deaf.pid)


def test_processes_that_it_starts_meanwhile_are_killed_too(tmp_path: Path) -> None:
    with started(tmp_path, RESTARTING):
        end_project(tmp_path, within=1)
        assert (tmp_path / "later").exists()
        until(lambda: processes_of(tmp_path) == [], what="all of them to be gone")


def test_a_kill_takes_the_descendants_too(family: subprocess.Popen[bytes], tmp_path: Path) -> None:
    kill_tree(family.pid)
    assert processes_of(tmp_path) == []
    assert not (tmp_path / "goodbye").exists()
    kill_tree(family.pid)


def test_a_kill_takes_processes_that_ignore_sigterm(tmp_path: Path) -> None:
    with started(tmp_path, DEAF) as deaf:
        kill_project(tmp_path)
        assert processes_of(tmp_path) == []
        assert not psutil.pid_exists(deaf.pid)
    kill_project(tmp_path)


def test_a_process_that_ended_has_no_processor_time(family: subprocess.Popen[bytes]) -> None:
    assert processor_seconds(os.getpid()) > 0
    kill_tree(family.pid)
    with pytest.raises(ProcessLookupError):
        processor_seconds(family.pid)
