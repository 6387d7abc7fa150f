"""Request bodies: JSON of a bounded length."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import falcon
import falcon.asgi
import orjson

# Integers that may exceed 64 bits, behind any character that can precede a number: orjson would make them inexact.
_LONG_INTEGER = re.compile(rb"[\[:, \t\r\n-]\d{19}")


async def read_body(req: falcon.asgi.Request, limit: int) -> bytes:
    """The request's body, of any Content-Type; raises 413 beyond `limit` bytes, and 400 when it is incomplete."""
    length = req.content_length
    body = b""
    if length is None or length <= limit:
        body = await req.stream.read(limit + 1)
    if (length or 0) > limit or len(body) > limit:
        raise falcon.HTTPContentTooLarge(
            title="Body too large",
            description=f"A request's body may have {limit} bytes at most.",
            # The client need not send the rest.
            headers={"Connection": "close"},
        )
    if len(body) < (length or 0):
        raise falcon.HTTPBadRequest(
            title="Malformed body", description=f"The body ended after {len(body)} of {length} bytes."
        )
    return body


def parse_json(body: bytes) -> Any:
    """The JSON values of a body; raises 400 for malformed JSON."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        # orjson has narrower limits than the standard library, whose error messages are also better.
        return _parse_slowly(body)
    # A body that is one number has nothing before it.
    if type(value) is float or _LONG_INTEGER.search(body):
        # orjson accepts no infinite number, so there is none in this body.
        return json.loads(body)
    return value


def _parse_slowly(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = str(error) if body else "the body is empty"
        raise falcon.HTTPBadRequest(title="Malformed JSON", description=f"Malformed JSON: {reason}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        # JSON has no infinity: the model would get a null.
        raise ValueError(f"the number {_shortened(text)} is too large")
    return number


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
