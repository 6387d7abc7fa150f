"""Authorization by the API keys of a deployment, as bearer tokens (RFC 6750)."""

from __future__ import annotations

import hmac
from typing import Any

import falcon
import falcon.asgi


class Authorization:
    """Middleware that, where API keys are set, requires `Authorization: Bearer <key>` for resources with `needs_key`.

    It sets `req.context.client`, which distinguishes clients: the API key, or empty where none is required.
    """

    def __init__(self, api_keys: frozenset[str]) -> None:
        self._keys = [key.encode() for key in api_keys]

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, params: dict[str, Any]
    ) -> None:
        req.context.client = ""
        if not self._keys or not getattr(resource, "needs_key", False):
            return
        scheme, _, given = (req.get_header("Authorization") or "").partition(" ")
        key = given.strip()
        if scheme.lower() != "bearer" or not any(hmac.compare_digest(key.encode(), known) for known in self._keys):
            raise falcon.HTTPUnauthorized(
                title="Not authorised",
                description="This needs the header Authorization: Bearer followed by an API key.",
                challenges=["Bearer"],
            )
        req.context.client = key
