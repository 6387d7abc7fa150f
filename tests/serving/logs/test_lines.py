"""lines.py and current.py: what a line of the log begins with, and where printed lines go."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout

import pytest

from app.serving.logs import current
from app.serving.logs.current import current_ids, logged_as
from app.serving.logs.lines import MAX_RECORD, OWN_LOGGER, TaskFormatter, log_output, own_log

Printing = Callable[[], AbstractContextManager[None]]


class Kept(logging.Handler):
    """Keeps the formatted lines of each record, without their time."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TaskFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += re.sub(r"(?m)^\[[-\d]+ [:\d]+,\d+: ", "[", self.format(record)).split("\n")


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def log(kept: Kept) -> Iterator[logging.Logger]:
    logger = logging.getLogger("of the test")
    logger.setLevel(logging.INFO)
    logger.addHandler(kept)
    yield logger
    logger.removeHandler(kept)


@pytest.fixture
def printing(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """Within it, what is printed goes to `kept`. pytest's own streams change between a fixture and its test."""

    @contextmanager
    def print_to_kept() -> Iterator[None]:
        monkeypatch.setattr(current, "_at_end", [])
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
        with redirect_stdout(sys.stdout), redirect_stderr(sys.stderr):
            log_output((kept,))
            yield

    return print_to_kept


def test_lines_of_a_task_begin_with_its_id(kept: Kept, printing: Printing, log: logging.Logger) -> None:
    with printing():
        print("before")
        with logged_as("a1"):
            print("printed")
            print("to stderr", file=sys.stderr)
            log.warning("logged %d", 1)
        log.info("after")
    assert kept.lines == [
        "[INFO/MainProcess] before",
        "[INFO/MainProcess a1] printed",
        "[INFO/MainProcess a1] to stderr",
        "[WARNING/MainProcess a1] logged 1",
        "[INFO/MainProcess] after",
    ]


def test_what_a_task_has_not_ended_with_a_newline_is_of_that_task(kept: Kept, printing: Printing) -> None:
    with printing():
        with logged_as("a1"):
            print("no newline", end="")
            print("\r 50%", end="", file=sys.stderr)
        print("of none")
    assert kept.lines == ["[INFO/MainProcess a1] no newline", "[INFO/MainProcess a1] 50%", "[INFO/MainProcess] of none"]


def test_what_a_thread_of_a_task_prints_is_of_that_task(kept: Kept, printing: Printing) -> None:
    with printing(), logged_as("a1"):
        thread = threading.Thread(target=print, args=("from", "a thread"))
        thread.start()
        thread.join()
    assert kept.lines == ["[INFO/MainProcess a1] from a thread"]


def test_lines_of_a_batch_follow_one_with_all_its_ids(kept: Kept, printing: Printing, log: logging.Logger) -> None:
    with printing():
        for ids in (("a1", "b2", "c3"), ("d4", "e5")):
            with logged_as(*ids):
                with logged_as(ids[0]):
                    print("of one")
                print("of all")
                log.error("of all too")
    assert kept.lines == [
        "[INFO/MainProcess a1] of one",
        "[INFO/MainProcess a1+2] batch of 3 tasks: a1, b2, c3",
        "[INFO/MainProcess a1+2] of all",
        "[ERROR/MainProcess a1+2] of all too",
        "[INFO/MainProcess d4] of one",
        "[INFO/MainProcess d4+1] batch of 2 tasks: d4, e5",
        "[INFO/MainProcess d4+1] of all",
        "[ERROR/MainProcess d4+1] of all too",
    ]


def test_a_traceback_follows_its_line(kept: Kept, printing: Printing, log: logging.Logger) -> None:
    with printing(), logged_as("a1", "b2"):
        try:
            raise ValueError("no")
        except ValueError:
            log.exception("failed")
    assert kept.lines[1] == "[ERROR/MainProcess a1+1] failed"
    assert kept.lines[2] == "Traceback (most recent call last):"
    assert kept.lines[-1] == "ValueError: no"
    assert len([line for line in kept.lines if line.startswith("Traceback")]) == 1


def test_a_huge_record_is_cut_off(kept: Kept, log: logging.Logger) -> None:
    log.info("x" * 3_000_000)
    assert len(kept.lines[0]) < MAX_RECORD + 100
    assert re.search(r"xxx \.\.\. \(30000\d\d characters\)$", kept.lines[0])


def test_lines_that_the_pipelines_own_stream_holds_back_are_of_their_task(kept: Kept, printing: Printing) -> None:
    with printing(), logged_as("a1"):
        # As many do, for consoles that are not UTF-8.
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
        print("held back ☃")
    assert kept.lines == ["[INFO/MainProcess a1] held back ☃"]


def test_a_warning_is_one_line(kept: Kept, printing: Printing) -> None:
    with printing(), logged_as("a1"), warnings.catch_warnings():
        warnings.simplefilter("always")
        print(warnings.formatwarning("careful", UserWarning, "model.py", 7, "the code()"), end="")
    assert kept.lines == ["[INFO/MainProcess a1] model.py:7: UserWarning: careful"]


def test_an_exception_ends_the_task_of_the_lines() -> None:
    with pytest.raises(KeyError), logged_as("a1"):
        raise KeyError
    assert current_ids() == ()


def test_denzels_own_log_does_not_depend_on_the_root_logger(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger(OWN_LOGGER)
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    own_log((kept,))
    logging.getLogger(f"{OWN_LOGGER}.worker.member").info("a process begins")
    assert kept.lines == ["[INFO/MainProcess] a process begins"]


def test_whatever_the_pipeline_makes_of_logging_printed_lines_are_kept(kept: Kept, printing: Printing) -> None:
    """As `logging.basicConfig(force=True)` does, or a dictConfig that disables the loggers that there are."""
    with printing():
        root = logging.getLogger()
        handler = logging.StreamHandler(sys.stderr)
        root.addHandler(handler)
        try:
            logging.getLogger("print").disabled = True
            print("printed")
            root.warning("logged")
        finally:
            root.removeHandler(handler)
            logging.getLogger("print").disabled = False
    assert kept.lines == ["[INFO/MainProcess] printed", "[INFO/MainProcess] logged"]


def test_a_record_cannot_pass_for_others_or_steer_a_terminal(kept: Kept, log: logging.Logger) -> None:
    sent = "x\x1b[2J\x07\r\n[2026-12-01 03:00:00,000: INFO/Process-1] ended: b SUCCESS in 0.001 s\n\tend"
    with logged_as("a"):
        log.info("bad input: %s", sent)
        log.error("failed", exc_info=ValueError(sent))
    head, forged, end, *traceback = kept.lines
    assert head == "[INFO/MainProcess a] bad input: x\\x07\\r"
    assert forged == "    [2026-12-01 03:00:00,000: INFO/Process-1] ended: b SUCCESS in 0.001 s"
    assert end == "\tend"
    assert traceback == ["[ERROR/MainProcess a] failed", "ValueError: x\\x07", forged, end]
