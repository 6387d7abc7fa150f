"""Prefer header (RFC 7240): the preferences `wait` and `respond-async` of one request."""

from __future__ import annotations

import re
from functools import lru_cache

from app.serving.queue.client import MAX_WAIT
from app.serving.queue.waiting import NONE, Preferences

#: Headers whose preferences are remembered: few are sent again and again.
MAX_REMEMBERED = 256

# One preference of the list: a comma inside quotes does not end it.
_PREFERENCE = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')

# Seconds: RFC 7240 has whole ones; fractions are ours.
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


@lru_cache(MAX_REMEMBERED)
def read_preferences(header: str | None) -> Preferences:
    """Parse a Prefer header: unknown and malformed preferences are ignored, and the first of a kind counts."""
    if header is None:
        return NONE
    wait: float | None = None
    respond_async = False
    for preference in _PREFERENCE.findall(header):
        name, _, value = preference.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "respond-async":
            respond_async = True
        elif name == "wait" and wait is None and _SECONDS.fullmatch(value):
            wait = min(float(value), MAX_WAIT)
    return Preferences(wait=wait, respond_async=respond_async)


def applied_wait(seconds: float) -> str:
    """The preference `wait` as Preference-Applied has it, without a fraction where there is none."""
    return f"wait={seconds:.3f}".rstrip("0").rstrip(".")
