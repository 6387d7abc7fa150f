"""How long a request waits for its result: its own preference, over the deployment's response mode."""

from __future__ import annotations

from dataclasses import dataclass

from app.serving.settings import ResponseMode


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """`wait` in seconds, when the request would wait; `respond_async`, when it would rather not."""

    wait: int | None = None
    respond_async: bool = False


#: What a request prefers that says nothing.
NONE = Preferences()


def seconds_to_wait(preferences: Preferences, response: ResponseMode) -> float | None:
    """How long a request waits for its result, by what it prefers and how the deployment answers; None: not at all."""
    if preferences.wait is not None:
        return preferences.wait
    return response.timeout if response.synchronous and not preferences.respond_async else None
