"""running_task.py: what the pipeline sees of its task, and what it may report."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from app.serving import current_task, progress
from app.serving import running_task as module
from app.serving.logs.current import logged_as
from app.serving.running_task import MAX_MESSAGE, report_bar, report_output, set_delivered, set_reporter
from app.serving.store.messages import QueuedTask

TASKS = {
    "a": QueuedTask("a", "", "", 0.0, 2, "00-" + 32 * "a" + "-" + 16 * "b" + "-01", "request-7"),
    "b": QueuedTask("b", "", "", 0.0),
}


class Reported:
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def progress(self, task_ids: Sequence[str], fraction: float | None, message: str) -> None:
        self.all.append((*task_ids, fraction, message))

    def output(self, task_ids: Sequence[str], text: str) -> None:
        self.all.append((*task_ids, text))


@pytest.fixture
def reported() -> Iterator[Reported]:
    reporter = Reported()
    set_reporter(reporter)
    set_delivered(TASKS)
    yield reporter
    set_reporter(None)
    set_delivered({})


class Unreadable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __float__ = __str__  # type: ignore[assignment]


def test_the_current_task_has_its_id_delivery_and_headers(reported: Reported) -> None:
    with logged_as("a"):
        task = current_task()
    assert task is not None
    assert (task.id, task.delivery, task.request_id) == ("a", 2, "request-7")
    assert task.traceparent == TASKS["a"].traceparent
    with logged_as("b"):
        task = current_task()
    assert task is not None
    assert (task.id, task.delivery, task.traceparent, task.request_id) == ("b", 1, None, None)


def test_threads_of_the_pipeline_have_the_same_task(reported: Reported) -> None:
    found: list[Any] = []
    with logged_as("a"):
        thread = threading.Thread(target=lambda: (found.append(current_task()), progress(0.5)))
        thread.start()
        thread.join()
    assert [task.id for task in found] == ["a"]
    assert reported.all == [("a", 0.5, "")]


def test_a_batch_has_no_current_task_and_progress_for_each(reported: Reported) -> None:
    with logged_as("a", "b"):
        assert current_task() is None
        progress(0.5, "half of the batch")
    assert reported.all == [("a", "b", 0.5, "half of the batch")]


def test_outside_a_task_nothing_happens(reported: Reported) -> None:
    assert current_task() is None
    progress(0.5, "nobody's")
    report_output("1")
    assert reported.all == []


def test_without_a_worker_nothing_happens() -> None:
    set_reporter(None)
    with logged_as("a"):
        assert current_task() is None
        progress(0.5, "nobody's")
        report_output("1")


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [
        *((0, 0.0), (1, 1.0), (0.4, 0.4), (True, 1.0), (-1, 0.0), (1.5, 1.0), (40, 1.0), (math.inf, 1.0)),
        *((np.float32(0.5), 0.5), (np.array(0.25), 0.25), (Fraction(1, 4), 0.25)),
        *((None, None), (math.nan, None), ("half", None), ([0.5], None), (Unreadable(), None), (10**400, None)),
    ],
)
def test_a_fraction_is_a_number_from_0_to_1_or_none(fraction: Any, shown: float | None, reported: Reported) -> None:
    with logged_as("a"):
        progress(fraction)
    assert reported.all == [("a", shown, "")]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        *(("page 4 of 10", "page 4 of 10"), ("", ""), (None, ""), (3, "3"), (Unreadable(), "")),
        *(("two\nlines \t and\r more ", "two lines and more"), ("é" * MAX_MESSAGE, "é" * MAX_MESSAGE)),
        ("x" * 3_000_000, "x" * (MAX_MESSAGE - 3) + "..."),
    ],
)
def test_a_message_is_one_bounded_line(message: Any, shown: str, reported: Reported) -> None:
    with logged_as("a"):
        progress(message=message)
    assert reported.all == [("a", None, shown)]


def test_a_process_that_the_pipeline_forks_reports_nothing(reported: Reported) -> None:
    """Its copy of the writer has no thread, and would keep what it gets for ever."""
    child = os.fork()
    if child == 0:
        os._exit(0 if module._reporter is None else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_bar_is_progress_unless_the_pipeline_reports_its_own(reported: Reported) -> None:
    with logged_as("with a bar"):
        report_bar("pages:  40%|####      | 4/10 [00:01<00:02]")
        report_bar("of unknown length: 7it [00:01]")
    with logged_as("with both"):
        progress(0.5, "its own")
        report_bar("pages:  90%|####      | 9/10 [00:01<00:02]")
    with logged_as("with a bar", "and another"):
        report_bar("pages:  50%|####      | 5/10 [00:01<00:02]")
    report_bar("loading:  50%|####      | 5/10 [00:01<00:02]")
    assert reported.all == [
        ("with a bar", 0.4, "pages 4/10"),
        ("with both", 0.5, "its own"),
        ("with a bar", "and another", 0.5, "pages 5/10"),
    ]
