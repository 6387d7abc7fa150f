"""watching.py: a task's events as the user sees them, on a terminal and elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from denzel.terminal import watching
from denzel.watch import AWAY, TaskEvent


def event(name: str, **data: Any) -> TaskEvent:
    return TaskEvent(name=name, data=data)


EVENTS = [
    event("waiting", position=3, eta_seconds=12.3),
    event("waiting", position=2),
    event("started", delivery=1),
    TaskEvent(name="output", data="the é\u001b[2J"),
    event("progress", fraction=0.4, message="page 4\u001b of 10"),
    event("progress", fraction=None, message="loading"),
    event("skipped", outputs=7),
    TaskEvent(name=AWAY),
    event("restarted", restarts=1),
    event("started", delivery=2),
    event("ended", status="SUCCESS", result={"a": "ü"}, seconds={"waited": 0, "ran": 3.21}),
]


def test_elsewhere_each_event_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert watching.watched(EVENTS) == "SUCCESS"
    assert capsys.readouterr().out.splitlines() == [
        "waiting: position 3, about 12 s to its end",
        "waiting: position 2",
        "running",
        '"the é\\u001b[2J"',
        " 40% page 4\\x1b of 10",
        "loading",
        "7 outputs are not kept any more",
        "the api does not answer; trying again",
        "restarted: its worker died or stopped; the output so far is void",
        "running, delivery 2",
        "SUCCESS in 3.2 s",
        '{"a": "ü"}',
    ]


def test_a_failure_shows_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert watching.watched([event("ended", status="FAILURE", result={"args": ["no"]})]) == "FAILURE"
    assert capsys.readouterr().out == 'FAILURE\n{"args": ["no"]}\n'


def test_ctrl_c_ends_the_view(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> Iterator[TaskEvent]:
        yield event("started", delivery=1)
        raise KeyboardInterrupt

    assert watching.watched(interrupted()) is None
    assert capsys.readouterr().out == "running\n\n"


def test_a_terminal_has_a_bar_below_the_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    watching.watched(EVENTS)
    rows = screen(capsys.readouterr().out)
    assert [row for row in rows if row] == [
        '"the é\\u001b[2J"',
        "7 outputs are not kept any more",
        "restarted: its worker died or stopped; the output so far is void",
        "SUCCESS in 3.2 s",
        '{"a": "ü"}',
    ]


def test_the_bar_shows_fraction_and_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    def until_progress() -> Iterator[TaskEvent]:
        yield from EVENTS[:5]
        yield TaskEvent(name="output", data="fox")
        raise KeyboardInterrupt

    watching.watched(until_progress())
    rows = screen(capsys.readouterr().out)
    assert rows[:2] == ['"the é\\u001b[2J"', '"fox"']
    assert rows[2].startswith("  [####")
    assert rows[2].endswith(" 40%  page 4\\x1b of 10")


def screen(text: str) -> list[str]:
    """The rows of a terminal behind this output, without colours."""
    rows = [""]
    for part in text.replace("\r\033[K", "\0").replace("\033[32m", "").replace("\033[33m", "").replace("\033[0m", ""):
        if part == "\0":
            rows[-1] = ""
        elif part == "\n":
            rows.append("")
        else:
            rows[-1] += part
    return rows
