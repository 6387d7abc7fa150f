"""The body of a request: JSON of a bounded length."""

from __future__ import annotations

import json
from typing import Any

import falcon


def read_json(req: falcon.Request, limit: int) -> Any:
    """The request's body as JSON values, whatever its Content-Type; raises the 413 and 400 of the contract."""
    length = req.content_length
    chunked = "chunked" in (req.get_header("Transfer-Encoding") or "").lower()
    body = b""
    if length is None or length <= limit:
        body = req.stream.read(limit + 1 if chunked else min(length or 0, limit + 1))
    if (length or 0) > limit or len(body) > limit:
        raise falcon.HTTPContentTooLarge(
            title="Body too large", description=f"A request's body may have {limit} bytes at most."
        )
    if len(body) < (length or 0):
        raise falcon.HTTPBadRequest(
            title="Malformed body", description=f"The body ended after {len(body)} of {length} bytes."
        )
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error) if body else "the body is empty"
        raise falcon.HTTPBadRequest(title="Malformed JSON", description=f"Malformed JSON: {reason}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
