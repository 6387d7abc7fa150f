"""Authorization by the API keys of a deployment, as bearer tokens (RFC 6750)."""

from __future__ import annotations

import hmac
from typing import Any

import falcon
import falcon.asgi


class Authorization:
    """Middleware that requires `Authorization: Bearer <key>` for resources with `needs_key`, where API keys are set."""

    def __init__(self, api_keys: frozenset[str]) -> None:
        self._keys = [key.encode() for key in api_keys]

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, params: dict[str, Any]
    ) -> None:
        if getattr(resource, "needs_key", False):
            self.client(req.get_header("Authorization"))

    def client(self, header: str | None) -> str:
        """The API key in this Authorization header, which distinguishes clients; empty where none is required.

        Raises 401 without a valid one.
        """
        if not self._keys:
            return ""
        scheme, _, given = (header or "").partition(" ")
        key = given.strip()
        if scheme.lower() != "bearer" or not any(hmac.compare_digest(key.encode(), known) for known in self._keys):
            raise falcon.HTTPUnauthorized(
                title="Not authorised",
                description="This needs the header Authorization: Bearer followed by an API key.",
                challenges=["Bearer"],
            )
        return key
