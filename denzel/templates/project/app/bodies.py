"""The body of a request: JSON of a bounded length."""

from __future__ import annotations

import json
import re
from typing import Any

import falcon
import falcon.asgi
import orjson

# Numbers that a 64-bit integer may not hold: orjson would make them inexact.
_LONG_NUMBER = re.compile(rb"\d{19}")


async def read_body(req: falcon.asgi.Request, limit: int) -> bytes:
    """The request's body, whatever its Content-Type; raises the 413 and 400 of the contract."""
    length = req.content_length
    body = b""
    if length is None or length <= limit:
        body = await req.stream.read(limit + 1)
    if (length or 0) > limit or len(body) > limit:
        raise falcon.HTTPContentTooLarge(
            title="Body too large", description=f"A request's body may have {limit} bytes at most."
        )
    if len(body) < (length or 0):
        raise falcon.HTTPBadRequest(
            title="Malformed body", description=f"The body ended after {len(body)} of {length} bytes."
        )
    return body


def parse_json(body: bytes) -> Any:
    """The JSON values of a body; raises the 400 of the contract."""
    if not _LONG_NUMBER.search(body):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            # It has narrower limits than the standard library, which also says better what is wrong.
            pass
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error) if body else "the body is empty"
        raise falcon.HTTPBadRequest(title="Malformed JSON", description=f"Malformed JSON: {reason}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
