"""When a callback is tried again: what an answer means, and how long to wait. Nothing here waits or sends."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: Seconds until the second try. Each further wait is twice as long, up to a quarter of the time since the first try
#: (half a minute at least, an hour at most): a receiver is found out to be back soon, as measured by how long it was
#: away. Each is drawn within a fifth of that, so that callbacks that failed together do not come back together.
FIRST_WAIT = 5.0
STEADY_WAIT = 30.0
MAX_WAIT = 3600.0
JITTER = 0.2

#: Answers that may be another one next time, beside all of 500 and more.
TRANSIENT_STATUSES = frozenset({408, 425, 429})


def is_delivered(status: int) -> bool:
    """Whether a receiver that answers with this status has the callback."""
    return 200 <= status < 300


def is_transient(status: int) -> bool:
    """Whether a receiver that answers with this status may take the callback later. A redirect is not followed."""
    return status in TRANSIENT_STATUSES or status >= 500


def read_retry_after(text: str | None, *, now: float) -> float | None:
    """The seconds that a `Retry-After` asks for, as a number or as a date; None for one that says neither.

    `now` is in seconds since 1970.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:10])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # A date that names no zone is in GMT, as all dates of HTTP are.
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.fromtimestamp(now, UTC)).total_seconds())


def wait_before(
    attempt: int,
    *,
    since_first: float,
    retry_for: float,
    retry_after: float | None = None,
    draw: Callable[[float, float], float] = random.uniform,
) -> float | None:
    """Seconds to wait before this attempt (2 is the first that repeats), or None when the callback is given up.

    The last attempt comes when `retry_for` seconds have passed since the first; no attempt comes sooner than
    `retry_after` seconds.
    """
    left = retry_for - since_first
    if left <= 0 or (retry_after or 0) > left:
        return None
    doubled = FIRST_WAIT * 2.0 ** min(attempt - 2, 30)
    wait = min(doubled, max(STEADY_WAIT, since_first / 4), MAX_WAIT) * draw(1 - JITTER, 1 + JITTER)
    return max(min(wait, left), retry_after or 0)
