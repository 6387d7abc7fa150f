"""Events of one task for a reader: what follows from its state, behind those that the reader has.

A reader's place is a cursor, the id of the last event it got. Only output is kept in Redis: each other event is made of
the task's record when it is read, so that a task which nobody follows costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from app.serving.store.loop.followed import TaskState
from app.serving.store.tasks import PENDING, TERMINAL_STATES
from app.serving.store.times import iso

# What a reader has got of the latest delivery.
_NOTHING, _WAITING, _STARTED, _ENDED = range(4)

# Digits of a number in a cursor at most.
_MAX_DIGITS = 15


class Cursor(NamedTuple):
    """A reader's place: restarts of the task, the stage of this delivery that it knows, the position in the queue, the
    numbers of outputs and of reports on progress.
    """

    restarts: int = 0
    stage: int = _NOTHING
    position: int = 0
    outputs: int = 0
    reports: int = 0

    @property
    def is_at_end(self) -> bool:
        """True when the reader has all events."""
        return self.stage == _ENDED

    def __str__(self) -> str:
        return ".".join(map(str, self))


class Event(NamedTuple):
    """One event: the cursor behind it, its name, and its data in JSON; None for the record of a task that has ended."""

    cursor: Cursor
    name: str
    data: str | None


def read_cursor(last_event_id: str | None) -> Cursor:
    """The cursor of a `Last-Event-ID`; that of a new reader for what is none."""
    numbers = (last_event_id or "").strip().split(".")
    if len(numbers) != len(Cursor()):
        return Cursor()
    if not all(one.isascii() and one.isdigit() and len(one) <= _MAX_DIGITS for one in numbers):
        return Cursor()
    return Cursor(*map(int, numbers))


def events_since(cursor: Cursor, task_id: str, state: TaskState, eta: float | None = None) -> Iterator[Event]:
    """The events between a cursor and a state, which was read for this cursor's restarts and outputs."""
    if cursor.is_at_end:
        return
    if state.restarts != cursor.restarts:
        has_news = cursor.stage != _NOTHING
        cursor = Cursor(restarts=state.restarts)
        if has_news:
            yield Event(cursor, "restarted", json.dumps({"task_id": task_id, "restarts": state.restarts}))
    if state.status == PENDING:
        position = state.position or 0
        if (cursor.stage, cursor.position) != (_WAITING, position):
            cursor = cursor._replace(stage=_WAITING, position=position)
            estimate = {} if eta is None else {"eta_seconds": round(eta, 3)}
            place = {"task_id": task_id, "position": state.position, **estimate}
            yield Event(cursor, "waiting", json.dumps(place))
        return
    if cursor.stage < _STARTED and state.started is not None:
        cursor = cursor._replace(stage=_STARTED, position=0)
        start = {"task_id": task_id, "delivery": state.deliveries, "started": iso(state.started)}
        yield Event(cursor, "started", json.dumps(start))
    yield from _reports_since(cursor, state)
    if state.status in TERMINAL_STATES and not state.has_more:
        yield Event(Cursor(state.restarts, _ENDED, 0, state.total, state.reports), "ended", None)


def _reports_since(cursor: Cursor, state: TaskState) -> Iterator[Event]:
    missing = state.first - cursor.outputs
    cursor = cursor._replace(outputs=state.first)
    if missing > 0:
        yield Event(cursor, "skipped", json.dumps({"outputs": missing}))
    for text in state.outputs:
        cursor = cursor._replace(outputs=cursor.outputs + 1)
        yield Event(cursor, "output", text)
    if state.progress is not None and state.reports != cursor.reports and not state.has_more:
        yield Event(cursor._replace(reports=state.reports), "progress", state.progress)
