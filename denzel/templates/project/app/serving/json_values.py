"""Conversion of what a model returns to JSON values."""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

# The types of values that stay as they are, and of the keys of most dicts.
_UNCHANGED = frozenset((str, bool, type(None)))
_STRING = frozenset((str,))

# The path to a value: its key or index, and the path to its container; formatted only for an error.
_Path: TypeAlias = "tuple[str] | tuple[str | int, _Path]"


class NotJson(TypeError):
    """A value that JSON cannot represent; the message names its path and its type."""


class TooDeep(NotJson):
    """A value that is nested too deeply, or contains itself."""


def json_values(value: Any, path: str = "result") -> Any:
    """A copy of `value` made of dicts, lists, strings, numbers, booleans and None.

    NumPy scalars and arrays become numbers, strings and lists; NaN and infinity become None. Raises NotJson, naming the
    path from `path` on, for anything else.
    """
    try:
        return _convert(value, (path,))
    except RecursionError:
        raise TooDeep(f"{path} is nested too deeply, or contains itself: not JSON serialisable") from None


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
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return _integer(value, path)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        named = ((_key(key, path), item) for key, item in value.items())
        return {key: _convert(item, (key, path)) for key, item in named}
    if isinstance(value, list | tuple):
        return [_convert(item, (index, path)) for index, item in enumerate(value)]
    if _is_numpy(value) and getattr(value, "dtype", None) is not None and value.dtype.kind in "mM":
        raise NotJson(f"{_formatted(path)} is a {value.dtype.name}: not JSON serialisable")
    if _is_numpy(value) and not isinstance(value.tolist(), type(value)):
        return _convert(value.tolist(), path)
    raise NotJson(f"{_formatted(path)} is a {type(value).__name__}: not JSON serialisable")


def _integer(value: int, path: _Path) -> int:
    # Within any limit on the digits that Python converts.
    if -(2**63) < value < 2**63:
        return int(value)
    try:
        int.__repr__(value)
    except ValueError as error:
        raise NotJson(f"{_formatted(path)} is an int that is too long: {error}") from None
    return int(value)


def _key(key: Any, path: _Path) -> str:
    """Keys as json.dumps writes them, NumPy's scalars included."""
    if _is_numpy(key):
        key = key.tolist()
    if isinstance(key, str):
        return str(key)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int) or (isinstance(key, float) and math.isfinite(key)):
        return int.__repr__(key) if isinstance(key, int) else float.__repr__(key)
    raise NotJson(f"{_formatted(path)} has the key {key!r}, a {type(key).__name__}: not JSON serialisable")


def _formatted(path: _Path) -> str:
    """The path in Python's notation: result["a"][2]."""
    steps = []
    while len(path) == 2:
        step, path = path
        steps.append(f"[{json.dumps(step)}]")
    return "".join((path[0], *reversed(steps)))


def _is_numpy(value: Any) -> bool:
    """True for NumPy's types, judged by their module, so that NumPy is not imported where a project does not use it."""
    return any(base.__module__.partition(".")[0] == "numpy" for base in type(value).__mro__) and hasattr(
        value, "tolist"
    )
