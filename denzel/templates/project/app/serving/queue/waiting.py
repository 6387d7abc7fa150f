"""Time that a request waits for its result: its own preference, or else the deployment's response mode."""

from __future__ import annotations

from dataclasses import dataclass

from app.serving.settings import ResponseMode


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Preferences of one request: `wait`, in seconds, for the result; or `respond_async`, not to wait."""

    wait: float | None = None
    respond_async: bool = False


#: The preferences of a request that states none.
NONE = Preferences()


def seconds_to_wait(preferences: Preferences, response: ResponseMode) -> float | None:
    """The time that a request waits for its result; None for one that does not wait."""
    if preferences.wait is not None:
        return preferences.wait
    return response.timeout if response.synchronous and not preferences.respond_async else None
