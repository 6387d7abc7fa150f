"""Exceptions of the user's code: as failure results for GET /status, and as text."""

from __future__ import annotations

from typing import Any

from app.serving.json_values import NotJson, json_values


def failure(error: BaseException) -> dict[str, Any]:
    """`{"args": [...]}`: the exception's arguments as JSON values, or its name where it has none."""
    if not isinstance(error, Exception):
        # The pipeline tried to end its process, as sys.exit does: the arguments alone would not show that.
        return {"args": [f"{type(error).__name__}: {message(error)}"]}
    return failure_result(type(error).__name__, error.args)


def failure_result(name: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The same for an exception of which only the name and the arguments are at hand."""
    return {"args": [_argument(argument) for argument in arguments] or [name]}


def time_limit_result(limit: float) -> dict[str, Any]:
    """The result of a task that ran for longer than `limit` seconds."""
    return {"args": [f"the task took longer than TASK_TIME_LIMIT, {limit:g} s"]}


def _argument(argument: Any) -> Any:
    try:
        return json_values(argument)
    except NotJson:
        return _text(argument) or type(argument).__name__


def describe(error: BaseException) -> str:
    """One line for an exception: its type and message, without the traceback."""
    text = " ".join(message(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def message(error: BaseException) -> str:
    """The text of an exception; empty when its own `__str__` raises."""
    return _text(error)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  the user's own code
        return ""
