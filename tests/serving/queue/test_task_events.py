"""task_events.py: the events that a reader gets, from the states of a task."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.serving.queue.task_events import Cursor, events_since, read_cursor
from app.serving.store.loop.followed import TaskState
from app.serving.store.tasks import TaskRecord

FRESH = Cursor()


def state(status: str, **fields: Any) -> TaskState:
    nothing = TaskState(status, 0, 0, None, None, 0, 0, None, 0, [], None)
    return nothing._replace(**fields)


def running(*outputs: str, first: int = 0, **fields: Any) -> TaskState:
    fields = {"started": 1_700_000_000.0, "deliveries": 1, "total": first + len(outputs), **fields}
    return state("STARTED", first=first, outputs=list(outputs), **fields)


def ended(*outputs: str, **fields: Any) -> TaskState:
    return running(*outputs, **fields)._replace(status="SUCCESS", record=TaskRecord(status="SUCCESS"))


def names(cursor: Cursor, *states: TaskState) -> list[str]:
    """The events of a reader that sees these states one after the other: their names, and the data of output."""
    found = []
    for one in states:
        for event in events_since(cursor, "a", one):
            found.append(f"{event.name} {event.data}" if event.name == "output" else event.name)
            cursor = event.cursor
    return found


def test_a_reader_sees_a_task_wait_start_and_end() -> None:
    waiting = [state("PENDING", position=place) for place in (2, 2, 1)]
    assert names(FRESH, *waiting, running(), running(), ended()) == ["waiting", "waiting", "started", "ended"]


def test_the_data_of_each_event() -> None:
    (waiting,) = events_since(FRESH, "a", state("PENDING", position=2), 3.14159)
    assert json.loads(waiting.data or "") == {"task_id": "a", "position": 2, "eta_seconds": 3.142}
    reported = running("1", progress='{"fraction": 0.5}', reports=4)
    started, output, progress = events_since(FRESH, "a", reported)
    assert json.loads(started.data or "") == {"task_id": "a", "delivery": 1, "started": "2023-11-14T22:13:20.000Z"}
    assert (output.data, progress.data) == ("1", '{"fraction": 0.5}')
    (restarted,) = events_since(progress.cursor, "a", running(restarts=1, started=None))
    assert json.loads(restarted.data or "") == {"task_id": "a", "restarts": 1}
    *_, end = events_since(FRESH, "a", ended())
    assert end.data is None, "the record has it"


def test_output_is_sent_once_and_progress_where_it_has_changed() -> None:
    reader = Cursor(stage=2)
    first = running("1", "2", progress="{}", reports=1)
    assert names(reader, first, running(first=2, progress="{}", reports=1)) == ["output 1", "output 2", "progress"]
    assert names(Cursor(stage=2, outputs=2, reports=1), running("3", first=2, progress="{}", reports=2)) == [
        "output 3",
        "progress",
    ]


def test_an_ended_task_gives_its_events_at_once() -> None:
    assert names(FRESH, ended("1", "2", progress="{}", reports=3)) == [
        *("started", "output 1", "output 2", "progress", "ended")
    ]


def test_a_task_that_was_cancelled_in_the_queue_never_started() -> None:
    assert names(FRESH, ended(started=None)._replace(status="REVOKED")) == ["ended"]


def test_the_end_comes_behind_the_last_output() -> None:
    partly = ended("1", "2", total=3, progress="{}", reports=1)
    assert names(FRESH, partly, ended("3", first=2, progress="{}", reports=1)) == [
        *("started", "output 1", "output 2", "output 3", "progress", "ended")
    ]


def test_a_restart_voids_what_the_reader_has() -> None:
    again = [state("PENDING", position=1, restarts=1), running("1", restarts=1)]
    assert names(FRESH, running("1", "2"), *again) == [
        *("started", "output 1", "output 2", "restarted", "waiting", "started", "output 1")
    ]


def test_a_reader_that_comes_after_a_restart_is_not_told_of_it() -> None:
    assert names(FRESH, running("1", restarts=2)) == ["started", "output 1"]


def test_what_is_not_kept_any_more_is_said() -> None:
    events = list(events_since(Cursor(stage=2, outputs=3), "a", running("11", first=10)))
    assert [(event.name, event.data) for event in events] == [("skipped", '{"outputs": 7}'), ("output", "11")]
    assert events[-1].cursor.outputs == 11


def test_each_event_can_be_resumed_from() -> None:
    """Whatever the last event that came through, the rest follows, without loss and without repetition."""
    end = ended("1", "2", "3", progress="{}", reports=5)
    everything = list(events_since(FRESH, "a", end))
    for number, event in enumerate(everything, start=1):
        cursor = read_cursor(str(event.cursor))
        assert cursor == event.cursor
        rest = end._replace(first=cursor.outputs, outputs=end.outputs[cursor.outputs :])
        assert list(events_since(cursor, "a", rest)) == everything[number:]
    assert everything[-1].cursor.is_at_end


@pytest.mark.parametrize(
    "header", [None, "", "7", "0.1.2.3", "0.1.2.3.4.5", "a.b.c.d.e", "-1.0.0.0.0", "0.0.0.0.1e3", "٣.0.0.0.0", "9" * 99]
)
def test_what_is_no_cursor_is_a_new_reader(header: str | None) -> None:
    assert read_cursor(header) == FRESH


def test_a_cursor_that_was_made_up_gets_what_there_is() -> None:
    made_up = read_cursor("0.7.9.99.99")
    assert names(made_up, running("3", first=2)) == ["output 3"]
    assert [event.cursor.outputs for event in events_since(made_up, "a", running("3", first=2))] == [3]
