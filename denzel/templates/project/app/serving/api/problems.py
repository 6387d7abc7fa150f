"""Error responses, all in one shape: `{"title", "description", "status"}`.

It is RFC 9457's problem details, with Falcon's `description` for `detail`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import falcon
import falcon.asgi
from redis import RedisError

from app.serving.json_values import json_text

#: Seconds after which a client may try again when the queue is full, or Redis away.
RETRY_AFTER = 5


class Problem(falcon.HTTPError):
    """An error with members beyond title and description, for example the id of the task."""

    def __init__(self, status: int, *, title: str, description: str, **details: Any) -> None:
        super().__init__(status, title=title, description=description)
        self.details = details


def problem(status: int, title: str, description: str | None, **details: Any) -> str:
    """The JSON body of an error."""
    return json_text({"title": title, "description": description or title, "status": status, **details})


def serialize(req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError) -> None:
    """Serialize an error for Falcon, as application/problem+json where `Accept` names that."""
    status = error.status_code
    details = error.details if isinstance(error, Problem) else {}
    title = error.title
    if title is None or title == error.status:
        title = HTTPStatus(status).phrase
    resp.text = problem(status, title, error.description, **details)
    named = "application/problem+json" in (req.get_header("Accept") or "")
    resp.content_type = "application/problem+json" if named else "application/json; charset=utf-8"
    resp.append_header("Vary", "Accept")


def unavailable(description: str) -> falcon.HTTPServiceUnavailable:
    """A 503 with Retry-After."""
    return falcon.HTTPServiceUnavailable(title="Service unavailable", description=description, retry_after=RETRY_AFTER)


async def broker_away(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
) -> None:
    """Answer 503 for a redis.RedisError: Redis is away, loads its data, or is read-only."""
    assert isinstance(error, RedisError)
    raise unavailable("The queue cannot be reached. Try again.") from error


async def unknown_path(req: falcon.asgi.Request, resp: falcon.asgi.Response | None, **_: Any) -> None:
    """Answer 404 for a path without a resource."""
    raise falcon.HTTPNotFound(title="Not found", description=f"There is nothing at {req.path}.")
