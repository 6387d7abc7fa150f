"""Retry policy for callbacks: classes of statuses, and the backoff between attempts. Pure functions.

As Standard Webhooks suggests: only 2xx is delivered, 3xx is not followed, 410 is final, `Retry-After` and jitter count.
Beyond that, other 4xx are final, too, apart from TRANSIENT_STATUSES: the same request would fail again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: Seconds until the second attempt. Each further wait is twice as long, up to a quarter of the time since the first
#: attempt (half a minute at least, an hour at most): an endpoint that recovers is found after a short time, compared
#: with that of its outage. A jitter of a fifth spreads callbacks that failed together.
FIRST_WAIT = 5.0
STEADY_WAIT = 30.0
MAX_BACKOFF = 3600.0
JITTER = 0.2

#: Statuses below 500 that are retried: Request Timeout, Too Early, Too Many Requests.
TRANSIENT_STATUSES = frozenset({408, 425, 429})


def is_delivered(status: int) -> bool:
    """True when an endpoint that responds with this status has the callback."""
    return 200 <= status < 300


def is_transient(status: int) -> bool:
    """True when an endpoint that responds with this status may accept the callback later."""
    return status in TRANSIENT_STATUSES or status >= 500


def read_retry_after(text: str | None, *, now: float) -> float | None:
    """The seconds that a `Retry-After` (RFC 9110) asks for, as a number or as a date; None if it is neither.

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
    # A date without a zone is in GMT, as all dates of HTTP are.
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
    """Seconds to wait before this attempt (2 is the first retry), or None when the callback is given up.

    The last attempt is made `retry_for` seconds after the first; none is made before `retry_after` seconds have passed.
    """
    left = retry_for - since_first
    if left <= 0 or (retry_after or 0) > left:
        return None
    doubled = FIRST_WAIT * 2.0 ** min(attempt - 2, 30)
    wait = min(doubled, max(STEADY_WAIT, since_first / 4), MAX_BACKOFF) * draw(1 - JITTER, 1 + JITTER)
    return max(min(wait, left), retry_after or 0)
