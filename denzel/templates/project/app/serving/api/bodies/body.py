"""Request bodies: JSON of a bounded length."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import falcon
import orjson

from app.serving.text import bounded

Receive = Callable[[], Awaitable[Any]]

# Integers that may exceed 64 bits, behind any character that can precede a number: orjson would make them inexact.
_LONG_INTEGER = re.compile(rb"[\[:, \t\r\n-]\d{19}")

# A translation of bytes that makes all digits alike, so that 19 of them are found quickly.
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG = b"0" * 19

# Characters of a place, and of a value that a client sent, that are shown.
_MAX_PLACE = 200
_MAX_VALUE = 40


class _NotFinite(ValueError):
    """A number that JSON has not, which the message names."""


class _Constant:
    """The number, where it stands in the parsed body."""


async def read_body(length: int | None, receive: Receive, limit: int) -> bytes:
    """The body of an ASGI request with this Content-Length, of any Content-Type.

    Raises 413 beyond `limit` bytes, and 400 when it is incomplete.
    """
    if length is not None and length > limit:
        raise too_large(limit)
    event = await receive()
    body: bytes = event.get("body", b"")
    if event.get("more_body"):
        parts, size = [body], len(body)
        while event.get("more_body") and size <= limit:
            event = await receive()
            parts.append(event.get("body", b""))
            size += len(parts[-1])
        body = b"".join(parts)
    if len(body) > limit:
        raise too_large(limit)
    if len(body) < (length or 0) or event["type"] == "http.disconnect":
        raise falcon.HTTPBadRequest(
            title="Malformed body", description=f"The body ended after {len(body)} of {length or 'more'} bytes."
        )
    return body


def too_large(limit: int) -> falcon.HTTPContentTooLarge:
    """A 413."""
    return falcon.HTTPContentTooLarge(
        title="Body too large",
        description=f"A request's body may have {limit} bytes at most.",
        # The client need not send the rest.
        headers={"Connection": "close"},
    )


def parse_json(body: bytes) -> Any:
    """The JSON values of a body; raises 400 for malformed JSON."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        # orjson has narrower limits than the standard library, whose error messages are also better.
        return _parse_slowly(body)
    # A body that is one number has nothing before it.
    if type(value) is float or (_LONG in body.translate(_DIGITS) and _LONG_INTEGER.search(body)):
        # orjson accepts no infinite number, so there is none in this body.
        return json.loads(body)
    return value


def _parse_slowly(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        reason = (
            f"byte 0x{body[error.start]:02x} at position {error.start} is no text in {error.encoding}; a file needs "
            f"its Content-Type, such as image/png, and a compressed body its Content-Encoding"
        )
        raise _malformed(reason) from error
    except _NotFinite as error:
        raise _malformed(f"{error} at {_place_of_constant(body)}; send null for a missing number") from error
    except (ValueError, RecursionError) as error:
        reason = str(error) if body else "the body is empty"
        raise _malformed(reason) from error


def _malformed(reason: str) -> falcon.HTTPBadRequest:
    return falcon.HTTPBadRequest(title="Malformed JSON", description=f"Malformed JSON: {reason}")


def _refuse_constant(name: str) -> None:
    """Raise _NotFinite; for the `parse_constant` of json.loads."""
    raise _NotFinite(f"{name} is not JSON")


def _place_of_constant(body: bytes) -> str:
    """The place of the first of these numbers, such as `["rows"][0]["x"]`."""
    found = _Constant()
    try:
        value = json.loads(body, parse_constant=lambda name: found)
    except (ValueError, RecursionError):
        return "an unknown place, as the rest is malformed too"
    place = "".join(f"[{json.dumps(step, ensure_ascii=False)}]" for step in _path_to(found, value))
    return bounded(place, _MAX_PLACE) or "the top"


def _path_to(found: _Constant, value: Any) -> list[str | int]:
    """The keys and indices that lead to it. A body may have millions of items: only those on the way are kept."""
    path: list[str | int] = []
    levels = [_items(value)]
    while levels:
        for step, item in levels[-1]:
            if item is found:
                return [*path, step]
            if isinstance(item, dict | list):
                path.append(step)
                levels.append(_items(item))
                break
        else:
            levels.pop()
            del path[-1:]
    return path


def _items(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        return iter(value.items())
    return iter(enumerate(value if isinstance(value, list) else ()))


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        # JSON has no infinity: the model would get a null.
        raise ValueError(f"the number {shortened(text)} is too large")
    return number


def shortened(text: str) -> str:
    """A value that a client sent, for an error."""
    return bounded(text, _MAX_VALUE)
