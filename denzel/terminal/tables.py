"""Tables and charts of text: lists of unfinished work, bars and sparklines."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from denzel.admin import Callback, QuarantinedTask, UnfinishedTask

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"

#: Seconds after its due time within which a callback counts as about to be sent.
_DUE_GRACE = 2


def callbacks(kept: Sequence[Callback], *, now: float) -> list[str]:
    """Rows of callbacks that are not delivered; `now` is in Unix seconds, as in the lists below."""
    return table(
        ("TASK", "STATE", "ATTEMPTS", "LAST STATUS", "NEXT TRY", "ADDRESS", "LAST ERROR"),
        [
            (
                callback.task_id,
                callback.state,
                callback.attempts,
                callback.last_status,
                _next_try(callback, now),
                callback.uri,
                callback.last_error,
            )
            for callback in kept
        ],
    )


def tasks(kept: Sequence[UnfinishedTask], *, now: float) -> list[str]:
    return table(
        ("TASK", "STATUS", "POSITION", "DELIVERIES", "SINCE", "HOST"),
        [
            (task.task_id, task.status, task.position, task.deliveries, _ago(task.since, now), task.host)
            for task in kept
        ],
    )


def quarantined(kept: Sequence[QuarantinedTask], *, now: float) -> list[str]:
    return table(
        ("TASK", "DELIVERIES", "SINCE", "REASON"),
        [(task.task_id, task.deliveries, _ago(task.since, now), task.reason) for task in kept],
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines with columns as wide as their widest cell; nothing is cut, so that ids and addresses can be copied."""
    texts = [["-" if value is None else escape(str(value)) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *texts)
    ]


def stack(parts: Sequence[Sequence[str]]) -> list[str]:
    """The lines of several parts, with an empty line between two."""
    return [line for lines in parts for line in ("", *lines)][1:]


def escape(text: str) -> str:
    """The text with control characters, and those that the terminal's encoding lacks, as backslash escapes."""
    printable = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text
    )
    encoding = sys.stdout.encoding or "utf-8"
    return printable.encode(encoding, "backslashreplace").decode(encoding)


def bar(value: float, greatest: float, *, width: int) -> str:
    """A bar of at most `width` characters, in eighths of one; every value above zero is visible."""
    if greatest <= 0 or value <= 0:
        return ""
    eighths = max(1, round(value / greatest * width * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def sparkline(values: Sequence[float], *, width: int) -> str:
    """A line over time from zero on, of at most `width` characters; each shows the greatest of its values."""
    if not values:
        return ""
    letters = min(width, len(values))
    shown = [
        max(values[index * len(values) // letters : (index + 1) * len(values) // letters]) for index in range(letters)
    ]
    greatest = max(shown) or 1
    return "".join(_LEVELS[min(len(_LEVELS) - 1, int(value / greatest * len(_LEVELS)))] for value in shown)


def _next_try(callback: Callback, now: float) -> str | None:
    if callback.next_try is None:
        return "being sent" if callback.state == "PENDING" else None
    ahead = callback.next_try - now
    if ahead >= 1:
        return f"in {_duration(ahead)}"
    # A due callback is sent at once, unless as many as allowed are being sent to its endpoint.
    return "now" if ahead > -_DUE_GRACE else "when its endpoint is free"


def _ago(moment: float | None, now: float) -> str | None:
    return None if moment is None else f"{_duration(max(0, now - moment))} ago"


def _duration(seconds: float) -> str:
    """The time in the largest unit of which it has at least two: 90 s, 5 min, 36 h, 3 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
