"""Prefer header (RFC 7240): the preferences `wait` and `respond-async` of one request."""

from __future__ import annotations

import re
from functools import lru_cache

from app.serving.queue.waiting import NONE, Preferences

#: Headers whose preferences are remembered: few are sent again and again.
MAX_REMEMBERED = 256

# One preference of the list: a comma inside quotes does not end it.
_PREFERENCE = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')


@lru_cache(MAX_REMEMBERED)
def read_preferences(header: str | None) -> Preferences:
    """Parse a Prefer header: unknown and malformed preferences are ignored, and the first of a kind counts."""
    if header is None:
        return NONE
    wait: int | None = None
    respond_async = False
    for preference in _PREFERENCE.findall(header):
        name, _, value = preference.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "respond-async":
            respond_async = True
        elif name == "wait" and wait is None and value.isascii() and value.isdigit():
            wait = int(value[:9])
    return Preferences(wait=wait, respond_async=respond_async)
