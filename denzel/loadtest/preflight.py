"""Preflight check: the errors of a first request, which is sent alone before any load or fault."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import responses
from typing import Any

from denzel.errors import RequestUnusable, ServiceFailed


def refused(status: int, response: Any) -> RequestUnusable:
    """The error for a request that the api refuses, and would refuse again."""
    return RequestUnusable(
        f"The api answered the request with {status}: {description(status, response)}",
        hint="Put a request that it accepts into app/assets/example.json, or name another file with --file.",
    )


def failed(reason: str) -> RequestUnusable:
    """The error for a request that was accepted, and whose task failed."""
    # On one line: the message of an exception may have several.
    reason = " ".join(reason.split())
    return RequestUnusable(
        f"The first request failed: {reason.rstrip('.') or 'no reason is given'}.",
        hint="Put a real request into app/assets/example.json, or name another file with --file.",
    )


def not_ended(timeout: float) -> ServiceFailed:
    return ServiceFailed(
        f"The first task did not end within {timeout:.0f} s.", hint="denzel status, then denzel logs --service denzel"
    )


def not_called_back(address: str, timeout: float) -> ServiceFailed:
    return ServiceFailed(
        f"No callback came to {address} within {timeout:.0f} s.",
        hint="Does a firewall on this machine, or CALLBACK_DENY in .env, keep it out? --port sets the port.",
    )


def description(status: int, response: Any) -> str:
    """The description in an error of the api, or else the reason phrase of its status."""
    described = response.get("description") if isinstance(response, Mapping) else None
    return str(described or responses.get(status, ""))


def reason(task: Mapping[str, Any]) -> str:
    """The reason of a task's failure, from its status or callback; empty when there is none."""
    error = task.get("error")
    if isinstance(error, Mapping):
        return ": ".join(filter(None, (error.get("type"), error.get("message"))))
    # A project made before December 2026 shows the exception's arguments alone.
    result = task.get("result")
    arguments = result.get("args", []) if isinstance(result, Mapping) else []
    return ", ".join(map(str, arguments)) if isinstance(arguments, list) else ""
