"""Signatures of callbacks, by which a receiver knows whose they are: https://www.standardwebhooks.com"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

PREFIX = "whsec_"


class BadSecret(ValueError):
    """The secret can not be one; the message does not repeat it."""


def read_secret(secret: str) -> bytes:
    """The key in `whsec_...`; empty for no secret. Raises BadSecret."""
    if not secret:
        return b""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(PREFIX) or not key:
        raise BadSecret("CALLBACK_SECRET must be whsec_ and 24 to 64 bytes in base64, or empty")
    return key


def webhook_headers(key: bytes, *, webhook_id: str, at: int, body: bytes) -> dict[str, str]:
    """The headers of one attempt, made `at` so many seconds since 1970; without a key it is not signed."""
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(at)}
    if key:
        signed = b".".join((webhook_id.encode(), str(at).encode(), body))
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        headers["webhook-signature"] = "v1," + base64.b64encode(digest).decode()
    return headers
