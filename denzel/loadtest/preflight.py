"""The first request, from end to end, before anything depends on it: what fails then fails for a reason of its own."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import responses
from typing import Any

from denzel.errors import RequestUnusable, ServiceFailed

_MEND = "Put a request that it accepts into app/assets/example.json, or name another file with --file."


def refused(status: int, answer: Any) -> RequestUnusable:
    """The api does not take the request, and never will."""
    return RequestUnusable(f"The api answered the request with {status}: {description(status, answer)}", hint=_MEND)


def failed(reason: str) -> RequestUnusable:
    """The request was accepted, and its task failed."""
    # On one line: what a library raises may have several.
    reason = " ".join(reason.split())
    return RequestUnusable(
        f"The first request failed: {reason.rstrip('.') or 'it does not say why'}.",
        hint="Put a real request into app/assets/example.json, or name another file with --file.",
    )


def not_ended(within: float) -> ServiceFailed:
    return ServiceFailed(
        f"The first task did not end within {within:.0f} s.", hint="denzel status, then denzel logs --service denzel"
    )


def not_called_back(address: str, within: float) -> ServiceFailed:
    return ServiceFailed(
        f"No callback came to {address} within {within:.0f} s.",
        hint="Does a firewall on this machine, or CALLBACK_DENY in .env, keep it out? --port sets the port.",
    )


def description(status: int, answer: Any) -> str:
    """What an error of the api says, or else what its status means."""
    said = answer.get("description") if isinstance(answer, Mapping) else None
    return str(said or responses.get(status, ""))


def reason(result: Any) -> str:
    """Why a task failed, from its result."""
    arguments = result.get("args", []) if isinstance(result, Mapping) else []
    return ", ".join(map(str, arguments)) if isinstance(arguments, list) else ""
