"""prefer.py: Prefer headers by RFC 7240, and malformed ones."""

from __future__ import annotations

import pytest

from app.serving.api.prefer import applied_wait, read_preferences
from app.serving.queue.waiting import Preferences

NOTHING = Preferences()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("wait=5", Preferences(wait=5)),
        ("wait=0", Preferences(wait=0)),
        ("wait=0.5", Preferences(wait=0.5)),
        ("wait=.5", Preferences(wait=0.5)),
        ("wait=2.", Preferences(wait=2)),
        ('wait="5"', Preferences(wait=5)),
        ("Wait=5", Preferences(wait=5)),
        ("wait = 5", Preferences(wait=5)),
        ("wait=5; foo=bar", Preferences(wait=5)),
        ("respond-async", Preferences(respond_async=True)),
        ("Respond-Async", Preferences(respond_async=True)),
        ('respond-async=""', Preferences(respond_async=True)),
        ("respond-async, wait=10", Preferences(wait=10, respond_async=True)),
        ("return=minimal,wait=10,handling=lenient", Preferences(wait=10)),
        ("  wait=10 ,, respond-async  ", Preferences(wait=10, respond_async=True)),
    ],
)
def test_a_list_of_preferences_is_read(header: str, expected: Preferences) -> None:
    assert read_preferences(header) == expected


def test_the_first_of_a_kind_counts() -> None:
    assert read_preferences("wait=3, wait=9") == Preferences(wait=3)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        ",;=,",
        "wait",
        "wait=",
        "wait=-1",
        "wait=.",
        "wait=1e3",
        "wait=nan",
        "wait=inf",
        "wait=soon",
        "wait=٣",
        "await=5",
        "foo; wait=5",
        "respond-asynchronously",
    ],
)
def test_missing_unknown_and_malformed_preferences_are_ignored(header: str | None) -> None:
    assert read_preferences(header) == NOTHING


def test_a_malformed_preference_does_not_hide_the_next_of_its_kind() -> None:
    assert read_preferences("wait=soon, wait=4") == Preferences(wait=4)


def test_a_wait_of_any_length_is_the_longest() -> None:
    assert read_preferences("wait=" + "9" * 5000).wait == 300


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "wait=0"), (0.5, "wait=0.5"), (10.0, "wait=10"), (300, "wait=300"), (1e-9, "wait=0")]
)
def test_the_applied_wait_has_a_fraction_where_there_is_one(seconds: float, expected: str) -> None:
    assert applied_wait(seconds) == expected


@pytest.mark.parametrize("header", ['foo="a, wait=9"', 'foo="a,wait=9"; bar', 'foo=bar; baz="x,respond-async"'])
def test_a_comma_inside_quotes_does_not_begin_a_preference(header: str) -> None:
    assert read_preferences(header) == NOTHING
