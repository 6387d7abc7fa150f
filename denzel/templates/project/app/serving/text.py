"""Text of any length, bounded for an answer, a record or the log; and that of objects of the user's code."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def bounded(text: str, limit: int) -> str:
    """The text in `limit` characters at most; a longer one ends in three dots."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def text_of(value: object, convert: Callable[[object], str] = str) -> str:
    """The text of an object, by `str` or `repr`; empty when its own method raises."""
    try:
        return convert(value)
    except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001  the user's own code
        return ""
