"""Requests in the form in which they are sent, made once: only the number in the callback's address changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from denzel.loadtest.http.sink import DIGITS


class RequestTemplates:
    """POST /predict with each of `requests` in turn.

    `address` is where the callback of request 0 goes. It takes the place of a request's own `callback_uri`, and is
    added where there is none if `always`. `prefer` is the header Prefer, empty for none; so is `key` for an API key,
    and `once` for the header Idempotency-Key: a request that is sent again makes no second task.
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
        once: str = "",
    ) -> None:
        self._host = f"{server[0]}:{server[1]}"
        self._authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        lines = f"Prefer: {prefer}\r\n" if prefer else ""
        if once:
            lines += f"Idempotency-Key: {once}\r\n"
        self._parts = [self._split(request, lines, address, always=always) for request in requests]

    def predict(self, number: int) -> bytes:
        before, after = self._parts[number % len(self._parts)]
        return before + b"%0*d" % (DIGITS, number) + after if after else before

    def has_callback(self, number: int) -> bool:
        return bool(self._parts[number % len(self._parts)][1])

    def status(self, task_id: str) -> bytes:
        return self._of_a_task("GET", task_id)

    def cancel(self, task_id: str) -> bytes:
        return self._of_a_task("DELETE", task_id)

    def _of_a_task(self, method: str, task_id: str) -> bytes:
        return f"{method} /status/{task_id} HTTP/1.1\r\nHost: {self._host}\r\n{self._authorization}\r\n".encode()

    def _split(self, request: Mapping[str, Any], lines: str, address: str, *, always: bool) -> tuple[bytes, bytes]:
        """What comes before the number, and after it; nothing after it where there is none."""
        called_back = always or "callback_uri" in request
        # Last, so that what is not the address of this run cannot be taken for it.
        fields = {name: value for name, value in request.items() if name != "callback_uri"}
        body = json.dumps({**fields, "callback_uri": address} if called_back else fields).encode()
        head = (
            f"POST /predict HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"{lines}{self._authorization}Content-Length: {len(body)}\r\n\r\n"
        )
        whole = head.encode() + body
        if not called_back:
            return whole, b""
        end = len(whole) - len('"}')
        return whole[: end - DIGITS], whole[end:]
