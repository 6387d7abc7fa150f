"""Client of the api under test, with pre-rendered requests, in which only a few bytes change."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from denzel.loadtest.client import HttpClient, HttpResponse, NoResponse
from denzel.loadtest.receiver import NUMBER_DIGITS
from denzel.webhooks.http1 import header


class Api:
    """POST /predict with each of `requests` in turn, and requests about the tasks that come of it.

    `address` is the callback URI of request 0; it replaces the `callback_uri` of those that have one. `key` is an API
    key, empty for none.
    """

    def __init__(
        self,
        client: HttpClient,
        requests: Sequence[Mapping[str, Any]],
        *,
        server: tuple[str, int],
        key: str,
        address: str,
    ) -> None:
        self._client = client
        authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        self._headers = f" HTTP/1.1\r\nHost: {server[0]}:{server[1]}\r\n{authorization}".encode()
        self._parts = [_split(request, address) for request in requests]

    def render(self, number: int, *, prefer: str = "", idempotency_key: str = "") -> bytes:
        """A request for a prediction, with these headers where they are not empty.

        Under an idempotency key, one that is sent again makes no second task.
        """
        named = f"Prefer: {prefer}\r\n" if prefer else ""
        if idempotency_key:
            named += f"Idempotency-Key: {idempotency_key}\r\n"
        before, after = self._parts[number % len(self._parts)]
        digits = b"%0*d" % (NUMBER_DIGITS, number) if after else b""
        return b"".join((b"POST /predict", self._headers, named.encode(), before, digits, after))

    def predict(self, number: int, *, prefer: str, idempotency_key: str = "") -> Awaitable[HttpResponse]:
        """Send what `render` makes; raises NoResponse."""
        return self._client.send(self.render(number, prefer=prefer, idempotency_key=idempotency_key))

    async def task(self, task_id: str) -> Mapping[str, Any] | None:
        """A task as GET /status shows it, None when there is none with this id; raises NoResponse without an answer."""
        response = await self._client.send(b"GET /status/%b%b\r\n" % (task_id.encode(), self._headers))
        content = parse_json(response.body)
        if response.status == HTTPStatus.NOT_FOUND:
            return None
        if response.status != HTTPStatus.OK or not isinstance(content, dict):
            raise NoResponse
        return content

    async def cancel(self, task_id: str) -> int:
        """The status of the response to a cancel; raises NoResponse."""
        return (await self._client.send(b"DELETE /status/%b%b\r\n" % (task_id.encode(), self._headers))).status


def _split(request: Mapping[str, Any], address: str) -> tuple[bytes, bytes]:
    """The bytes before and after the number; none after it where the request has no callback."""
    # Last, so that no other text of the request can be taken for the address.
    fields = {name: value for name, value in request.items() if name != "callback_uri"}
    body = json.dumps({**fields, "callback_uri": address} if "callback_uri" in request else fields)
    whole = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    if "callback_uri" not in request:
        return whole, b""
    end = len(whole) - len('"}')
    return whole[: end - NUMBER_DIGITS], whole[end:]


def task_id_of(response: HttpResponse) -> str:
    """The id of the accepted task; empty where the response is a result or an error."""
    return header(response.head, b"location").decode("latin1").rpartition("/")[2]


def parse_json(body: bytes) -> Any:
    """The value of a body; None when it is not JSON."""
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return None
