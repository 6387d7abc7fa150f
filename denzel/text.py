"""Numbers with their nouns in messages."""

from __future__ import annotations


def pluralize(number: int, noun: str) -> str:
    """A number and its noun: 1 task, 2 tasks, 3 processes."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
