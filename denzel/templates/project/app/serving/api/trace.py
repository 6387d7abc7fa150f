"""Headers of a request that follow its task: `traceparent` (W3C Trace Context) and `X-Request-ID`."""

from __future__ import annotations

import re

from app.serving.store.messages import REQUEST_ID, TRACEPARENT

#: Characters of either header at most; others are ignored, as Trace Context demands of a malformed traceparent.
MAX_LENGTH = 128

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
_REQUEST_ID = re.compile(r"[!-~]+")
_KEPT = ((b"traceparent", TRACEPARENT, _TRACEPARENT), (b"x-request-id", REQUEST_ID, _REQUEST_ID))


def read_trace(headers: dict[bytes, str]) -> dict[str, str] | None:
    """These headers, as a task's message has them; None for a request without."""
    if b"traceparent" not in headers and b"x-request-id" not in headers:
        return None
    found = {}
    for header, name, pattern in _KEPT:
        value = headers.get(header, "").strip()
        if len(value) <= MAX_LENGTH and pattern.fullmatch(value):
            found[name] = value
    return found
