"""Failures of tasks as they are stored and answered, and exceptions of the user's code as bounded text."""

from __future__ import annotations

import json
from typing import Any

from app.serving.json_values import NotJson, json_text, json_values
from app.serving.text import bounded, text_of

#: Characters of an exception's type, of its message, and of its arguments in JSON, that are kept.
LIMIT = 1000

# Types whose text is no message.
_MERE_VALUES = ("KeyError", "SystemExit", "KeyboardInterrupt")

#: The type, in an answer, of BadInput and its subclasses.
BAD_INPUT = "BadInput"


class BadInput(Exception):
    """To be raised by the pipeline for an input that the client has to mend; its message is what the client reads."""


def failure(error: BaseException) -> dict[str, Any]:
    """`{"args": [...], "error": {"type", "message"}}`: what is stored for a task that ended with this exception.

    `args` holds the exception's arguments where they are all of its message, or else the message alone.
    """
    kind, text = type_name(error), message(error)
    if not isinstance(error, Exception):
        # The pipeline tried to end its process, as sys.exit does: the arguments alone would not show that.
        return {"args": [_explained(kind, text)], "error": {"type": kind, "message": text}}
    return {"args": _arguments(error, text or kind), "error": {"type": kind, "message": text}}


def failure_of(kind: str, text: str) -> dict[str, Any]:
    """The same for a failure without an exception."""
    return {"args": [text], "error": {"type": kind, "message": text}}


def time_limit_failure(limit: float) -> dict[str, Any]:
    """The failure of a task that ran for longer than `limit` seconds."""
    return failure_of("TimeLimitExceeded", f"the task took longer than TASK_TIME_LIMIT, {limit:g} s")


def failure_members(stored: str) -> str:
    """The members `result` and `error` of an answer, in JSON, from what is stored for a task that has failed.

    Records of releases before December 2026 have no `error`.
    """
    parsed = json.loads(stored)
    error = parsed.pop("error", None) if isinstance(parsed, dict) else None
    members = f'"result": {json_text(parsed)}'
    return f'{members}, "error": {json_text(error)}' if error else members


def explanation(stored: str) -> str:
    """One text for a client, from what is stored for a task that has failed."""
    parsed = json.loads(stored)
    error = parsed.get("error")
    if error:
        return _explained(error["type"], error["message"])
    return ", ".join(str(argument) for argument in parsed.get("args", []))


def explain(error: BaseException) -> str:
    """The message of an exception, with its type in front where it says nothing by itself: KeyError: 'rows'."""
    return _explained(type_name(error), message(error))


def stored_reason(stored: str) -> str:
    """One line from what is stored for a failed task: the type and the message of its exception."""
    parsed = json.loads(stored)
    error = parsed.get("error")
    return _line(error["type"], error["message"]) if error else explanation(stored)


def describe(error: BaseException) -> str:
    """One line for an exception: its type and message, without the traceback."""
    return _line(type_name(error), message(error))


def _line(kind: str, text: str) -> str:
    text = " ".join(text.split())
    return f"{kind}: {text}" if text else kind


def type_name(error: BaseException) -> str:
    """The name of an exception's type; of a subclass of BadInput, that name."""
    return BAD_INPUT if isinstance(error, BadInput) else _bounded(type(error).__name__)


def message(error: BaseException) -> str:
    """The text of an exception; empty when its own `__str__` raises."""
    return _bounded(text_of(error))


def _explained(kind: str, text: str) -> str:
    if not text.strip():
        return kind
    # All that a KeyError has is a key, and SystemExit a code; others are raised with a mere value, too.
    says_nothing = kind in _MERE_VALUES or text.isdecimal() or (text[0] in "'\"" and text[-1] == text[0])
    return f"{kind}: {text}" if says_nothing else text


def _arguments(error: Exception, text: str) -> list[Any]:
    # Types with a text of their own, such as OSError, say more with it than with their arguments.
    arguments = _args_of(error)
    if not arguments or type(error).__str__ not in (BaseException.__str__, KeyError.__str__):
        return [text]
    converted = [_argument(argument) for argument in arguments]
    return converted if len(json_text(converted)) <= LIMIT else [text]


def _args_of(error: BaseException) -> tuple[Any, ...]:
    """The arguments, also of a type that has another `args` of its own."""
    arguments: tuple[Any, ...] = vars(BaseException)["args"].__get__(error)
    return arguments


def _argument(argument: Any) -> Any:
    try:
        return json_values(argument)
    except NotJson:
        return _bounded(text_of(argument)) or type(argument).__name__


def _bounded(text: str) -> str:
    """The beginning of a long text; what UTF-8 cannot encode is written as escapes."""
    return bounded(text, LIMIT).encode("utf-8", "backslashreplace").decode()
