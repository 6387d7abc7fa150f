"""Tables and charts of text: alignment, times in words, bars and sparklines."""

from __future__ import annotations

from typing import Any

import pytest

from denzel.admin import Callback
from denzel.terminal import tables
from denzel.terminal.tables import bar, sparkline

NOW = 1_700_000_000.0


def callback(**changes: Any) -> Callback:
    facts: dict[str, Any] = {
        "task_id": "an-id",
        "uri": "http://a/",
        "state": "PENDING",
        "attempts": 1,
        "last_status": 500,
        "last_error": "answered 500",
        "next_try": None,
    }
    return Callback(**{**facts, **changes})


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (-5, "when its endpoint is free"),
        (-1, "now"),
        (0, "now"),
        (40, "in 40 s"),
        (119, "in 119 s"),
        (190, "in 3 min"),
        (7500, "in 2 h"),
        (260000, "in 3 d"),
    ],
)
def test_the_next_try_is_in_words(ahead: float, words: str) -> None:
    [_, row] = tables.callbacks([callback(next_try=NOW + ahead)], now=NOW)
    assert f"  {words}  " in row


@pytest.mark.parametrize(("state", "words"), [("PENDING", "being sent"), ("FAILED", "-")])
def test_without_a_next_attempt_a_callback_is_in_flight_or_failed(state: str, words: str) -> None:
    [_, row] = tables.callbacks([callback(state=state)], now=NOW)
    assert f"500          {words}  " in row


def test_columns_are_aligned_and_nothing_is_cut() -> None:
    long = "x" * 300
    shown = [callback(), callback(task_id=long, uri=long, last_error=long)]
    heads, first, second = tables.callbacks(shown, now=NOW)
    assert heads.index("STATE") == first.index("PENDING") == second.index("PENDING")
    assert heads.index("LAST ERROR") == first.index("answered")
    assert second.count(long) == 3


def test_control_characters_in_a_cell_are_escaped() -> None:
    [_, row] = tables.callbacks([callback(uri="http://a/\033[2J", last_error="one\ntwo\x9b")], now=NOW)
    assert "http://a/\\x1b[2J" in row
    assert "one\\ntwo\\x9b" in row


def test_bars_are_in_proportion_and_visible_above_zero() -> None:
    assert bar(10, 10, width=4) == "████"
    assert bar(5, 10, width=4) == "██"
    assert bar(5, 8, width=4) == "██▌"
    assert bar(1, 10_000, width=4) == "▏"
    assert bar(0, 10, width=4) == bar(0, 0, width=4) == ""


def test_a_sparkline_begins_at_zero_and_keeps_the_peaks() -> None:
    assert sparkline([0, 4, 8], width=10) == "▁▅█"
    assert sparkline([0] * 50 + [8] + [0] * 49, width=10) == "▁▁▁▁▁█▁▁▁▁"
    assert sparkline([0, 0], width=10) == "▁▁"
    assert sparkline([], width=10) == ""
