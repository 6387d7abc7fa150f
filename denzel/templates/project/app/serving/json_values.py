"""Conversion of what a model returns to JSON values."""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

from app.serving.json_forms import NoForm, Plain, simpler
from app.serving.text import text_of

# The types of values that stay as they are, and of the keys of most dicts.
_UNCHANGED = frozenset((str, bool, type(None)))
_STRING = frozenset((str,))

# Characters of a path that are shown in an error.
_MAX_PATH = 300

# The path to a value: its key or index, and the path to its container; formatted only for an error.
_Path: TypeAlias = "tuple[str] | tuple[str | int, _Path]"


class NotJson(TypeError):
    """A value that JSON cannot represent; the message names its path and its type."""


class TooDeep(NotJson):
    """A value that is nested too deeply, or contains itself."""


def json_values(value: Any, path: str = "result") -> Any:
    """A copy of `value` made of dicts, lists, strings, numbers, booleans and None; json_forms has the forms of objects.

    NaN and infinity become None. Raises NotJson, naming the path from `path` on, for anything without a form.
    """
    try:
        return _convert(value, (path,))
    except RecursionError:
        raise TooDeep(f"{path} is nested too deeply, or contains itself: not JSON serialisable") from None


def json_text(value: Any) -> str:
    """JSON values as a text that UTF-8 can encode: a surrogate, which it cannot, stays an escape."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _convert(value: Any, path: _Path) -> Any:
    kind = type(value)
    if kind in _UNCHANGED:
        return value
    if kind is dict and _STRING.issuperset(map(type, value)):
        # Without a call for most of the items, of which there are many.
        return {
            key: item
            if (kind := type(item)) in _UNCHANGED or (kind is float and math.isfinite(item))
            else _convert(item, (key, path))
            for key, item in value.items()
        }
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is int:
        return _integer(value, path)
    if kind is list or kind is tuple:
        return [
            item
            if (kind := type(item)) in _UNCHANGED or (kind is float and math.isfinite(item))
            else _convert(item, (index, path))
            for index, item in enumerate(value)
        ]
    if kind is dict:
        return _with_text_keys(value, path)
    if issubclass(kind, float) and not hasattr(kind, "_member_map_"):
        # Of NumPy, of which there may be many.
        return float(value) if math.isfinite(value) else None
    form = _form(value, path)
    return form.value if type(form) is Plain else _convert(form, path)


def _form(value: Any, path: _Path) -> Any:
    """One step from a value of another type towards JSON. Raises NotJson whatever its methods raise."""
    try:
        return _of_subclass(value)
    except NoForm as error:
        raise NotJson(f"{_named(value, path)}: not JSON serialisable ({error.advice} would help)") from None
    except RecursionError:
        raise
    except Exception as error:
        raise NotJson(f"{_named(value, path)}: not JSON serialisable ({_reason(error)})") from error


def _of_subclass(value: Any) -> Any:
    # Before the types that its members may have as well.
    if hasattr(type(value), "_member_map_"):
        return value.value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        return dict(value.items())
    return simpler(value)


def _integer(value: int, path: _Path) -> int:
    # Within any limit on the digits that Python converts.
    if -(2**63) < value < 2**63:
        return int(value)
    try:
        int.__repr__(value)
    except ValueError as error:
        raise NotJson(f"{_formatted(path)} is an int that is too long: {error}") from None
    return int(value)


def _with_text_keys(value: dict[Any, Any], path: _Path) -> dict[str, Any]:
    converted: dict[str, Any] = {}
    for key, item in value.items():
        name = _key(key, path)
        if name in converted:
            raise NotJson(f"{_formatted(path)} has two keys that are {name!r} in JSON: not JSON serialisable")
        converted[name] = _convert(item, (name, path))
    return converted


def _key(key: Any, path: _Path) -> str:
    """Keys as json.dumps writes them; those of libraries as their values are written."""
    if type(key) is str:
        return str(key)
    try:
        value = _convert(key, ("the key",))
    except NotJson as error:
        if isinstance(key, int):
            raise NotJson(f"{_formatted(path)}: {error}") from None
        value = key
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    raise NotJson(
        f"{_formatted(path)} has the key {_repr(key)}, a {_shortened(type(key).__name__)}: not JSON serialisable"
        " (str() would help)"
    )


def _named(value: Any, path: _Path) -> str:
    return f"{_formatted(path)} is a {_shortened(type(value).__name__)}"


def _reason(error: Exception) -> str:
    return _shortened(f"{type(error).__name__}: {text_of(error)}")


def _repr(key: Any) -> str:
    return _shortened(text_of(key, repr)) or "without a text"


def _formatted(path: _Path) -> str:
    """The path in Python's notation: result["a"][2]. The middle of a long one is left out."""
    steps = []
    while len(path) == 2:
        step, path = path
        steps.append(f"[{json.dumps(step, ensure_ascii=False)}]")
    return _shortened("".join((path[0], *reversed(steps))))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_PATH else f"{text[: _MAX_PATH // 2]} ... {text[-_MAX_PATH // 2 :]}"
