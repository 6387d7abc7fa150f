"""NaN and Infinity in a request, which are not JSON, and their place."""

from __future__ import annotations

import json
from typing import Any

# Characters of a place that are shown.
_MAX_PLACE = 200


class NotFinite(ValueError):
    """A number that JSON has not; the message says which."""


class _Constant:
    """The number, where it stands in the parsed body."""


def refuse_constant(name: str) -> None:
    """Raise NotFinite; for the `parse_constant` of json.loads."""
    raise NotFinite(f"{name} is not JSON")


def place_of_constant(body: bytes) -> str:
    """The place of the first of these numbers: `the key "rows", item 0, the key "x"`."""
    found = _Constant()
    try:
        value = json.loads(body, parse_constant=lambda name: found)
    except (ValueError, RecursionError):
        return "an unknown place, as the rest is malformed too"
    steps: list[tuple[Any, str]] = [(value, "")]
    while steps:
        value, place = steps.pop()
        if value is found:
            return (place or "the top") if len(place) <= _MAX_PLACE else f"{place[:_MAX_PLACE]}..."
        steps.extend(reversed([(item, place + step) for step, item in _items(value)]))
    return "the top"


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{json.dumps(key, ensure_ascii=False)}]", item) for key, item in value.items()]
    if isinstance(value, list):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    return []
