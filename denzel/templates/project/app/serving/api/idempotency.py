"""Idempotency-Key header (IETF draft-ietf-httpapi-idempotency-key-header): a repeated request makes no second task."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from app.serving.store.tasks import Idempotency

#: Characters of a key. The draft sets no limit, and its structured string is taken as it is, quotes included.
MAX_KEY = 255


def read_idempotency(header: str | None, client: str, json_data: Any) -> Idempotency | None:
    """The digests of key and body, for the client with this API key; None without a header.

    Raises ValueError for an invalid key, and RecursionError for a body that is nested too deeply.
    """
    if header is None:
        return None
    key = header.strip()
    if not key:
        raise ValueError("Idempotency-Key is empty")
    if len(key) > MAX_KEY:
        raise ValueError(f"Idempotency-Key has {len(key)} characters; it may have {MAX_KEY} at most")
    if not (key.isascii() and key.isprintable()):
        raise ValueError("Idempotency-Key may have printable ASCII characters only")
    return Idempotency(key=_digest([client, key]), body=_digest(json_data))


def _digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of whitespace and of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
