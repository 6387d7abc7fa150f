"""log_file.py: one file, written by many processes, rotated by one of them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import PROJECT

from app.serving.worker import log_file

#: What a predicting process does: writes numbered lines to the shared file.
WRITER = """
import logging, sys
from pathlib import Path
from app.serving.worker import log_file
log = logging.getLogger("writer")
log.setLevel(logging.INFO)
log.propagate = False
log_file.add_handler(log, Path(sys.argv[1]), logging.Formatter("%(message)s"))
for number in range(2000):
    log.info("%s %d %s", sys.argv[2], number, "x" * 50)
"""


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("of the test", logging.INFO)
    yield logger
    for handler in logger.handlers:
        handler.close()


def test_lines_are_written_in_the_format_that_is_given(tmp_path: Path, logger: logging.Logger) -> None:
    path = tmp_path / "logs" / "worker.log"
    log_file.add_handler(logger, path, logging.Formatter("%(levelname)s: %(message)s"))
    logger.info("naïve ☃")
    assert path.read_text(encoding="utf-8") == "INFO: naïve ☃\n"


def test_an_existing_file_is_continued(tmp_path: Path, logger: logging.Logger) -> None:
    path = tmp_path / "worker.log"
    path.write_text("before\n")
    log_file.add_handler(logger, path, None)
    logger.info("after")
    assert path.read_text() == "before\nafter\n"


def test_a_place_that_cannot_be_written_costs_the_file_not_the_worker(tmp_path: Path, logger: logging.Logger) -> None:
    (tmp_path / "logs").write_text("a file where a folder should be")
    log_file.add_handler(logger, tmp_path / "logs" / "worker.log", None)
    logger.info("the worker goes on")
    assert logger.handlers == []


def test_a_file_below_the_limit_is_not_rotated(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    path.write_text("12345")
    log_file.rotate(path, at=6)
    assert [file.name for file in tmp_path.iterdir()] == ["worker.log"]


def test_a_full_file_moves_aside_and_the_oldest_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    for generation in range(1, 6):
        path.write_text(f"generation {generation}")
        log_file.rotate(path, at=5, keep=3)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "worker.log.1": "generation 5",
        "worker.log.2": "generation 4",
        "worker.log.3": "generation 3",
    }


def test_writing_goes_on_in_a_new_file_after_a_rotation(tmp_path: Path, logger: logging.Logger) -> None:
    path = tmp_path / "worker.log"
    log_file.add_handler(logger, path, None)
    logger.info("before")
    log_file.rotate(path, at=1)
    logger.info("after")
    assert path.read_text() == "after\n"
    assert (tmp_path / "worker.log.1").read_text() == "before\n"


def test_a_gap_in_the_old_files_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "worker.log"
    path.write_text("new")
    (tmp_path / "worker.log.2").write_text("old")
    log_file.rotate(path, at=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["worker.log.1", "worker.log.3"]
    assert caplog.messages == []


def test_a_missing_file_is_not_rotated_and_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is asked every few seconds, also where no file can be written."""
    log_file.rotate(tmp_path / "worker.log")
    assert caplog.messages == []


def test_a_rotation_that_fails_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "worker.log"
    path.write_text("full")
    (tmp_path / "worker.log.1").mkdir()
    (tmp_path / "worker.log.1" / "file").write_text("in the way")
    (tmp_path / "worker.log.2").mkdir()
    (tmp_path / "worker.log.2" / "file").write_text("in the way")
    log_file.rotate(path, at=1, keep=1)
    assert path.read_text() == "full"
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("log file not rotated: ")


def test_no_line_is_lost_or_torn_while_processes_write_and_one_rotates(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], cwd=PROJECT) for name in "abc"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            log_file.rotate(path, at=5_000, keep=200)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    files = list(tmp_path.iterdir())
    assert 1 < len(files) < 200
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{name} {number} {'x' * 50}" for name in "abc" for number in range(2000))
