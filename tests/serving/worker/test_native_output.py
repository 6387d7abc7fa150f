"""native_output.py: what native code and other programs write, as lines of the worker's log."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.paths import PROJECT
from support.waiting import until

from app.serving.logs.current import logged_as
from app.serving.logs.lines import TaskFormatter
from app.serving.worker.native_output import NativeOutput

#: Runs a function in a process with its output logged; returns the process once that has ended.
Run = Callable[[Callable[[], object]], multiprocessing.process.BaseProcess]


class Kept(logging.Handler):
    """Keeps the lines of the log without their times."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TaskFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record).partition(": ")[2])


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    logger = logging.getLogger(NativeOutput.__module__)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """The file that names the running task, as the scoreboard does for the worker."""
    path = tmp_path / "running"
    path.touch()
    return path


@pytest.fixture
def run(running: Path) -> Run:
    def run_process(function: Callable[[], object]) -> multiprocessing.process.BaseProcess:
        output = NativeOutput("Process-1", lambda: running.read_text().split())

        def main() -> None:
            output.write()
            function()

        process = multiprocessing.get_context("fork").Process(target=main)
        process.start()
        output.read()
        process.join(30)
        assert process.exitcode is not None
        return process

    return run_process


def test_lines_of_native_code_and_of_programs_are_of_the_running_task(run: Run, running: Path, kept: Kept) -> None:
    running.write_text("a1")

    def function() -> None:
        os.write(1, "from 1, ☃\n".encode())
        os.write(2, b"from 2\nand a partial one")
        subprocess.run(["echo", "", "from a program"], check=True)

    run(function)
    until(lambda: len(kept.lines) == 3, within=10, what="three lines")
    assert kept.lines == [
        "INFO/Process-1 a1] from 1, ☃",
        "INFO/Process-1 a1] from 2",
        "INFO/Process-1 a1] and a partial one from a program",
    ]


def test_the_last_words_of_a_process_that_crashes_are_kept(run: Run, running: Path, kept: Kept) -> None:
    running.write_text("a1")

    def function() -> None:
        faulthandler.enable(file=2, all_threads=False)
        ctypes.string_at(0)

    assert (run(function).exitcode or 0) < 0
    until(lambda: any("in string_at" in line for line in kept.lines), within=10, what="the traceback")
    assert kept.lines[0] == "INFO/Process-1 a1] Fatal Python error: Segmentation fault"


def test_at_the_end_of_a_task_all_that_it_has_written_is_read(run: Run, running: Path, kept: Kept) -> None:
    def function() -> None:
        for task in "abcd":
            with logged_as(task):
                running.write_text(task)
                os.write(1, f"of {task}\n".encode())
        # As the pipeline may do.
        os.closerange(3, 100)
        with logged_as("e"):
            os.write(1, b"and after that\n")

    run(function)
    until(lambda: len(kept.lines) == 5, within=10, what="five lines")
    assert kept.lines[:4] == [f"INFO/Process-1 {task}] of {task}" for task in "abcd"]


def test_much_output_holds_up_nobody_and_is_all_read(run: Run, kept: Kept) -> None:
    """Also while native code holds Python's lock: a pipe has room for 64 KiB."""
    line = b"x" * 99 + b"\n"

    def function() -> None:
        ctypes.PyDLL(None).write(1, line * 10_000, len(line) * 10_000)

    assert run(function).exitcode == 0
    until(lambda: len(kept.lines) >= 10_000, within=30, what="all lines")
    assert len(kept.lines) == 10_000


def test_pythons_own_output_stays_where_it_was() -> None:
    """The log of the worker itself goes there, and that of its processes."""
    code = """
import contextlib, os, sys
from app.serving.worker.native_output import NativeOutput, keep_own_output
keep_own_output()
os.write(2, b"native before\\n")
NativeOutput("Process-1", lambda: []).write()
with contextlib.suppress(BrokenPipeError):
    os.write(2, b"native after\\n")
print("to stderr \\u2603", file=sys.stderr)
print("as Celery's log", file=sys.__stderr__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, check=True, encoding="utf-8")
    assert done.stderr.splitlines() == ["native before", "to stderr ☃", "as Celery's log"]
