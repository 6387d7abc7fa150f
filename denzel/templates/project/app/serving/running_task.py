"""Running task as the pipeline sees it: `current_task` and `progress`, which app.serving hands on to the user.

Which tasks run is known to the process, and not to a thread or a context (logs/current.py), as is all that is here.
"""

from __future__ import annotations

import os

from app.serving.logs.bars import read_bar
from app.serving.logs.current import current_ids
from app.serving.text import bounded, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Protocol

    class Delivered(Protocol):
        """A task that was delivered to this process, as its message describes it."""

        @property
        def task_id(self) -> str: ...
        @property
        def delivery(self) -> int: ...
        @property
        def traceparent(self) -> str | None: ...
        @property
        def request_id(self) -> str | None: ...

    class Reporter(Protocol):
        """The recipient of reports of this process' tasks; neither method blocks or raises."""

        def progress(self, task_ids: Sequence[str], fraction: float | None, message: str) -> None: ...
        def output(self, task_ids: Sequence[str], text: str) -> None: ...


#: Characters of the message of a report at most.
MAX_MESSAGE = 500

_tasks: Mapping[str, Delivered] = {}
_reporter: Reporter | None = None
_reported_by_pipeline: tuple[str, ...] = ()


class CurrentTask:
    """The task that runs now.

    `id` is its id; `delivery` is 1, or more where its worker died before; `traceparent` and `request_id` are the
    headers `traceparent` and `X-Request-ID` of its request, or None.
    """

    __slots__ = ("delivery", "id", "request_id", "traceparent")

    def __init__(self, task: Delivered) -> None:
        self.id = task.task_id
        self.delivery = task.delivery
        self.traceparent = task.traceparent
        self.request_id = task.request_id

    def __repr__(self) -> str:
        return f"CurrentTask(id={self.id!r}, delivery={self.delivery})"


def current_task() -> CurrentTask | None:
    """The task for which `process` or `predict` is called, in any thread of theirs.

    None elsewhere: in verify_input and load_model, in predict_batch over several tasks, and where no denzel runs.
    """
    ids = current_ids()
    task = _tasks.get(ids[0]) if len(ids) == 1 else None
    return None if task is None else CurrentTask(task)


def progress(fraction: float | None = None, message: str = "") -> None:
    """Show in /status how far the current task is: a fraction from 0 to 1, or None, and a short message.

    Call it as often as you like: it returns at once, about ten reports a second are written, and so is the last one.
    In predict_batch it is for all tasks of the batch. Without a current task it does nothing.
    """
    global _reported_by_pipeline
    ids = _reported_by_pipeline = current_ids()
    if _reporter is not None and ids:
        _reporter.progress(ids, _as_fraction(fraction), _as_line(message))


def report_bar(text: str) -> None:
    """Show a progress bar, as it is drawn, in the same way; not where the pipeline calls `progress` for the task."""
    ids = current_ids()
    if _reporter is None or not ids or ids == _reported_by_pipeline:
        return
    bar = read_bar(text)
    if bar is not None:
        _reporter.progress(ids, _as_fraction(bar[0]), _as_line(bar[1]))


def report_output(text: str) -> None:
    """Show this JSON as the next part of the current task's output, where there is one."""
    ids = current_ids()
    if _reporter is not None and ids:
        _reporter.output(ids, text)


def set_delivered(tasks: Mapping[str, Delivered]) -> None:
    """Make these the tasks that this process has, by their ids."""
    global _tasks
    _tasks = tasks


def set_reporter(reporter: Reporter | None) -> None:
    """Let this process' reports go there. Those of processes that it forks go nowhere."""
    global _reporter
    _reporter = reporter


os.register_at_fork(after_in_child=lambda: set_reporter(None))


def _as_fraction(fraction: object) -> float | None:
    """A number from 0 to 1; None for what is no number."""
    try:
        number = float(fraction)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001  an object of the user's
        return None
    return min(max(number, 0.0), 1.0) if number == number else None


def _as_line(message: object) -> str:
    """One line of MAX_MESSAGE characters at most."""
    text = "" if message is None else text_of(message)
    return bounded(" ".join(text[: 2 * MAX_MESSAGE].split()), MAX_MESSAGE)
