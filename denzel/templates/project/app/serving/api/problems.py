"""Errors as clients see them: `{"title", "description", "status"}`, one shape for every failure."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import falcon
import falcon.asgi
from redis import RedisError

#: Seconds after which a client that met a full queue, or an absent broker, may try again.
RETRY_AFTER = 5


class Problem(falcon.HTTPError):
    """An error with more to say than its title and description, for example the id of the task."""

    def __init__(self, status: int, *, title: str, description: str, **details: Any) -> None:
        super().__init__(status, title=title, description=description)
        self.details = details


def problem(status: int, title: str, description: str | None, **details: Any) -> str:
    """The JSON text of an error."""
    return json.dumps({"title": title, "description": description or title, "status": status, **details})


def serialize(req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError) -> None:
    """Falcon's error serializer; the content type is application/problem+json where the client names it."""
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
    """503 with Retry-After."""
    return falcon.HTTPServiceUnavailable(title="Service unavailable", description=description, retry_after=RETRY_AFTER)


async def broker_away(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
) -> None:
    """Falcon's handler for redis.RedisError: Redis is away, loads its data, or takes no writes."""
    assert isinstance(error, RedisError)
    raise unavailable("The queue cannot be reached. Try again.") from error


async def unknown_path(req: falcon.asgi.Request, resp: falcon.asgi.Response | None, **_: Any) -> None:
    """The answer where no resource is."""
    raise falcon.HTTPNotFound(title="Not found", description=f"There is nothing at {req.path}.")
