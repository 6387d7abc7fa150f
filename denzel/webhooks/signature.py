"""Verification of callback signatures after Standard Webhooks, https://www.standardwebhooks.com, version v1."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping

#: Largest difference between a callback's timestamp and now, in seconds; as in the libraries of Standard Webhooks.
TOLERANCE = 300


def find_fault(headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> str:
    """The reason to reject a callback: its signature, or a timestamp too far from `now` (Unix seconds); else empty.

    The names of the headers are in lower case. `secret` is CALLBACK_SECRET: `whsec_` and base64, or empty.
    """
    if not secret:
        return "there is no CALLBACK_SECRET in .env to check it with"
    webhook_id, timestamp = (headers.get(name, "") for name in ("webhook-id", "webhook-timestamp"))
    if not (timestamp.isascii() and timestamp.isdigit()):
        return f"its webhook-timestamp is {timestamp!r}"
    age = now - int(timestamp)
    if abs(age) > TOLERANCE:
        return f"it was made {abs(age):.0f} s {'ago' if age > 0 else 'from now'}; at most {TOLERANCE} s are allowed"
    given = [word.partition(",") for word in headers.get("webhook-signature", "").split()]
    known = [signature.encode("utf-8", "replace") for version, _, signature in given if version == "v1"]
    if not known:
        return "it has no signature of version v1"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{webhook_id}.{timestamp}.".encode("latin-1", "replace") + body
    expected = base64.b64encode(hmac.digest(key, content, hashlib.sha256))
    if not any(hmac.compare_digest(expected, signature) for signature in known):
        return "it was made with a secret other than CALLBACK_SECRET in .env, or for another body"
    return ""
