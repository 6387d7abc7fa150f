"""The Idempotency-Key header: how a client can send a request again without making a second task."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from app.serving.store.tasks import Idempotency

MAX_KEY = 255


def read_idempotency(header: str | None, client: str, json_data: Any) -> Idempotency | None:
    """What the header means for this body, from the client with this API key; None without a header.

    Raises ValueError for what cannot be a key, and RecursionError for a body that is nested too deeply.
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
    """The same for the same JSON value, however it was spaced and its keys ordered."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
