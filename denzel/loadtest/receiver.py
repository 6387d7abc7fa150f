"""Callback receiver of a run, with an address for each request."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from denzel.webhooks.http1 import header, headers
from denzel.webhooks.receiver import Receiver
from denzel.webhooks.signature import find_fault

#: Digits of a request's number in an address, so that all addresses have the same length.
NUMBER_DIGITS = 9


class Callback(NamedTuple):
    """A callback: for which request, when it arrived, its `webhook-id`, and the fault of its signature, if any."""

    number: int
    when: float
    task_id: str
    fault: str = ""


class CallbackReceiver(Receiver):
    """Calls `on_callback` with each callback and its body; use it in an `async with`, which raises what `open` does.

    With a `secret` signatures are checked. `delay` is that of the behaviour SLOW.
    """

    def __init__(
        self,
        host: str,
        port: int,
        on_callback: Callable[[Callback, bytes], None],
        *,
        secret: str = "",
        delay: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(host, port, self._take, delay=delay)
        self._on_callback = on_callback
        self._secret = secret
        self._clock = clock
        # So that a callback of another run is not taken for one of this.
        self._path = f"/{secrets.token_hex(8)}"

    async def __aenter__(self) -> CallbackReceiver:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def address(self, host: str, number: int) -> str:
        """The callback URI of one request, for a sender that reaches this machine as `host`."""
        return f"http://{host}:{self.port}{self._path}/{number:0{NUMBER_DIGITS}}"

    def _take(self, path: str, head: bytes, body: bytes) -> int:
        before, _, digits = path.rpartition("/")
        if before != self._path or len(digits) != NUMBER_DIGITS or not digits.isdecimal():
            return 404
        fault = find_fault(headers(head), body, secret=self._secret, now=time.time()) if self._secret else ""
        task_id = header(head, b"webhook-id").decode("latin1")
        self._on_callback(Callback(int(digits), self._clock(), task_id, fault), body)
        return 204
