"""Bars and lines made of letters."""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"


def bar(value: float, greatest: float, *, width: int) -> str:
    """A bar as long as the value is large, in eighths of a letter; whatever is more than nothing can be seen."""
    if greatest <= 0 or value <= 0:
        return ""
    eighths = max(1, round(value / greatest * width * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def sparkline(values: Sequence[float], *, width: int) -> str:
    """A line over time from zero on, at most so wide: of what falls together in a letter, the greatest counts."""
    if not values:
        return ""
    letters = min(width, len(values))
    shown = [
        max(values[index * len(values) // letters : (index + 1) * len(values) // letters]) for index in range(letters)
    ]
    greatest = max(shown) or 1
    return "".join(_LEVELS[min(len(_LEVELS) - 1, int(value / greatest * len(_LEVELS)))] for value in shown)
