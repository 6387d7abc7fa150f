"""Pre-rendered HTTP requests, in which only the number in the callback's address changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from denzel.loadtest.http.sink import NUMBER_DIGITS


class RequestTemplates:
    """POST /predict with each of `requests` in turn, and requests on the tasks that come of it.

    `address` is the callback URI of request 0. It replaces a request's own `callback_uri`; with `always` it is added
    where there is none. `prefer` is the header Prefer, `key` an API key, and `idempotency_key` the header
    Idempotency-Key, under which a request that is sent again makes no second task; each is empty for none.
    """

    def __init__(
        self,
        requests: Sequence[Mapping[str, Any]],
        *,
        server: tuple[str, int],
        key: str,
        prefer: str,
        address: str,
        always: bool,
        idempotency_key: str = "",
    ) -> None:
        self._host = f"{server[0]}:{server[1]}"
        self._authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        headers = f"Prefer: {prefer}\r\n" if prefer else ""
        if idempotency_key:
            headers += f"Idempotency-Key: {idempotency_key}\r\n"
        self._parts = [self._split(request, headers, address, always=always) for request in requests]

    def predict(self, number: int) -> bytes:
        before, after = self._parts[number % len(self._parts)]
        return before + b"%0*d" % (NUMBER_DIGITS, number) + after if after else before

    def has_callback(self, number: int) -> bool:
        return bool(self._parts[number % len(self._parts)][1])

    def status(self, task_id: str) -> bytes:
        return self._on_task("GET", task_id)

    def cancel(self, task_id: str) -> bytes:
        return self._on_task("DELETE", task_id)

    def _on_task(self, method: str, task_id: str) -> bytes:
        return f"{method} /status/{task_id} HTTP/1.1\r\nHost: {self._host}\r\n{self._authorization}\r\n".encode()

    def _split(self, request: Mapping[str, Any], headers: str, address: str, *, always: bool) -> tuple[bytes, bytes]:
        """The bytes before and after the number; none after it where the request has no callback."""
        has_callback = always or "callback_uri" in request
        # Last, so that no other text of the request can be taken for the address.
        fields = {name: value for name, value in request.items() if name != "callback_uri"}
        body = json.dumps({**fields, "callback_uri": address} if has_callback else fields).encode()
        head = (
            f"POST /predict HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"{headers}{self._authorization}Content-Length: {len(body)}\r\n\r\n"
        )
        whole = head.encode() + body
        if not has_callback:
            return whole, b""
        end = len(whole) - len('"}')
        return whole[: end - NUMBER_DIGITS], whole[end:]
