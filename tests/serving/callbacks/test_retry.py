"""retry.py: classes of statuses, and the waits between attempts."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from app.serving.callbacks.retry import (
    FIRST_WAIT,
    JITTER,
    MAX_BACKOFF,
    is_delivered,
    is_transient,
    read_retry_after,
    wait_before,
)

DAY = 86_400.0
NOW = datetime(2026, 11, 25, 8, 0, tzinfo=UTC).timestamp()


def midpoint(low: float, high: float) -> float:
    return (low + high) / 2


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    assert is_delivered(status)
    assert not is_transient(status)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_some_statuses_are_transient(status: int) -> None:
    assert is_transient(status)
    assert not is_delivered(status)


@pytest.mark.parametrize("status", [100, 199, 300, 301, 302, 307, 308, 400, 401, 403, 404, 410, 413, 422, 499])
def test_all_other_statuses_are_final(status: int) -> None:
    """Redirects are among them: they are not followed."""
    assert not is_transient(status)
    assert not is_delivered(status)


@pytest.mark.parametrize(
    ("since_first", "waits"),
    [
        (0, [5, 10, 20, 30, 30, 30]),
        (60, [5, 10, 20, 30, 30, 30]),
        (200, [5, 10, 20, 40, 50, 50]),
        (3600, [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]),
        (DAY / 2, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]),
    ],
)
def test_each_wait_is_twice_as_long_up_to_a_quarter_of_the_time_since_the_first_try(
    since_first: float, waits: list[float]
) -> None:
    attempts = range(2, 2 + len(waits))
    assert [wait_before(each, since_first=since_first, retry_for=DAY, draw=midpoint) for each in attempts] == waits


def test_a_great_number_of_attempts_does_not_overflow() -> None:
    assert wait_before(100_000, since_first=DAY / 2, retry_for=DAY, draw=midpoint) == MAX_BACKOFF


def test_waits_are_spread_by_a_fifth() -> None:
    assert wait_before(2, since_first=0, retry_for=DAY, draw=lambda low, high: low) == FIRST_WAIT * (1 - JITTER)
    assert wait_before(2, since_first=0, retry_for=DAY, draw=lambda low, high: high) == FIRST_WAIT * (1 + JITTER)
    drawn = [wait_before(2, since_first=0, retry_for=DAY) for _ in range(200)]
    assert len(set(drawn)) > 100
    assert all(wait is not None and 4 <= wait <= 6 for wait in drawn)


@pytest.mark.parametrize(
    ("since_first", "retry_for", "retry_after", "wait"),
    [
        (0, DAY, None, 5),
        (DAY - 3, DAY, None, 3),  # the last attempt comes at the very end
        (DAY, DAY, None, None),
        (DAY + 1, DAY, None, None),
        (0.01, 0, None, None),  # CALLBACK_RETRY_FOR=0: one try
        (0, DAY, 2, 5),  # it is the least wait, not the wait
        (0, DAY, 100, 100),
        (0, DAY, 0, 5),
        (0, DAY, 7200, 7200),
        (0, DAY, DAY, DAY),
        (0, DAY, DAY + 1, None),  # not within the schedule
        (DAY - 3, DAY, 4, None),
        (0, DAY, 1e300, None),
    ],
)
def test_the_schedule_ends_and_the_endpoint_may_lengthen_a_wait(
    since_first: float, retry_for: float, retry_after: float | None, wait: float | None
) -> None:
    assert wait_before(2, since_first=since_first, retry_for=retry_for, retry_after=retry_after, draw=midpoint) == wait


def test_a_day_of_failures_is_a_few_dozen_attempts() -> None:
    since_first = 0.0
    for attempt in itertools.count(2):
        wait = wait_before(attempt, since_first=since_first, retry_for=DAY, draw=midpoint)
        if wait is None:
            break
        since_first += wait
    assert since_first == DAY
    assert attempt - 1 == 49


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("9" * 5000, 9_999_999_999),
        ("Wed, 25 Nov 2026 08:01:30 GMT", 90),
        ("Wed, 25 Nov 2026 08:01:30 -0000", 90),
        ("Wed, 25 Nov 2026 10:01:30 +0200", 90),
        ("Wednesday, 25-Nov-26 08:01:30 GMT", 90),
        ("Wed, 25 Nov 2026 07:00:00 GMT", 0),
        ("Wed, 99 Nov 2026 07:00:00 GMT", None),
        ("Wed, 25 Nov 99999999999999999999 07:00:00 GMT", None),
        (format_datetime(datetime.fromtimestamp(NOW + 7, UTC), usegmt=True), 7),
    ],
)
def test_a_retry_after_is_parsed_as_seconds_or_as_a_date(text: str | None, seconds: float | None) -> None:
    assert read_retry_after(text, now=NOW) == seconds
