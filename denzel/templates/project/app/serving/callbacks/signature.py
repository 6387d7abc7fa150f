"""Signatures of callbacks by the Standard Webhooks specification: https://www.standardwebhooks.com"""

from __future__ import annotations

import base64
import hashlib
import hmac

from app.serving.settings import SettingError

PREFIX = "whsec_"

#: Bytes that the specification allows for a key.
KEY_SIZES = range(24, 65)


def read_secret(secret: str) -> bytes:
    """The key in `whsec_...`; empty without a secret. Raises SettingError, which does not contain the secret."""
    if not secret:
        return b""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(PREFIX) or len(key) not in KEY_SIZES:
        raise SettingError("CALLBACK_SECRET must be whsec_ and 24 to 64 bytes in base64, or empty")
    return key


def webhook_headers(key: bytes, *, webhook_id: str, at: int, body: bytes) -> dict[str, str]:
    """The headers of one attempt, made `at` so many seconds since 1970; signed only with a key.

    The signature, version `v1`, is the HMAC-SHA256 of id, timestamp and body, joined by dots.
    """
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(at)}
    if key:
        content = b".".join((webhook_id.encode(), str(at).encode(), body))
        digest = hmac.new(key, content, hashlib.sha256).digest()
        headers["webhook-signature"] = "v1," + base64.b64encode(digest).decode()
    return headers
