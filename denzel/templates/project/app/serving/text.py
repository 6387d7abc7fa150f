"""Text of any length, bounded for an answer, a record or the log."""

from __future__ import annotations


def bounded(text: str, limit: int) -> str:
    """The text in `limit` characters at most; a longer one ends in three dots."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
