"""What a task's record says in the end of one that failed: the `result` that GET /status shows."""

from __future__ import annotations

from typing import Any

from app.serving.json_values import NotJson, json_values


def failure(error: BaseException) -> dict[str, Any]:
    """`{"args": [...]}`: the arguments of what was raised as JSON values, or its name where it has none."""
    if not isinstance(error, Exception):
        # A pipeline that wanted to end its process: of what it says, the name matters.
        return {"args": [f"{type(error).__name__}: {error}"]}
    return failure_result(type(error).__name__, error.args)


def failure_result(name: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The same for an exception that is known by its name and arguments alone."""
    return {"args": [_argument(argument) for argument in arguments] or [name]}


def time_limit_result(limit: float) -> dict[str, Any]:
    """That a task ran for longer than `limit` seconds."""
    return {"args": [f"the task took longer than TASK_TIME_LIMIT, {limit:g} s"]}


def _argument(argument: Any) -> Any:
    try:
        return json_values(argument)
    except NotJson:
        return str(argument)


def ends_process(error: BaseException) -> bool:
    """Whether this is no failure of the user's code, but the end of the process, which it was told to."""
    return isinstance(error, SystemExit) and isinstance(error.code, int) and error.code < 0


def describe(error: BaseException) -> str:
    """One line for an exception: its type and message, without the traceback."""
    said = " ".join(message(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def message(error: BaseException) -> str:
    """What an exception says of itself; nothing when it cannot even say that."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001  the user's own code
        return ""
