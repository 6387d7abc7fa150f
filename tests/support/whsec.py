"""Secrets that sign callbacks, as Standard Webhooks writes them."""

from __future__ import annotations

import base64


def whsec(size: int) -> str:
    """A secret of so many bytes."""
    return f"whsec_{base64.b64encode(bytes(range(size))).decode()}"


SECRET = whsec(32)
OTHER_SECRET = whsec(24)
