"""The Prefer header (RFC 7240): how one request wants to be answered."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.settings import ResponseMode

# One preference of the list: a comma or semicolon inside quotes does not end it.
_PREFERENCE = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """`wait` in seconds, when the request would wait; `respond_async`, when it would rather not."""

    wait: int | None = None
    respond_async: bool = False


#: What a request prefers that says nothing.
NONE = Preferences()


def read_preferences(header: str | None) -> Preferences:
    """What a Prefer header says; unknown and malformed preferences are ignored, and the first of a kind counts."""
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


def seconds_to_wait(preferences: Preferences, response: ResponseMode) -> float | None:
    """How long a request waits for its result, by what it prefers and how the deployment answers; None: not at all."""
    if preferences.wait is not None:
        return preferences.wait
    return response.timeout if response.synchronous and not preferences.respond_async else None
