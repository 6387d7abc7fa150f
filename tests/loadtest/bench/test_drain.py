"""The drain of a bench: callbacks and cancelled tasks."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from denzel.loadtest.bench.drain import BenchTimings, Drain
from denzel.loadtest.client import HttpResponse
from denzel.loadtest.receiver import Callback
from denzel.loadtest.request_log import RequestLog


def log_of_an_accepted_request() -> RequestLog:
    log = RequestLog([{"callback_uri": ""}], synchronous=False)
    head = b"HTTP/1.1 200 OK\r\nlocation: /status/an-id\r\n\r\n"
    assert log.record_response(log.begin(0.0), HttpResponse(status=200, head=head, body=b"{}", when=1.0))
    return log


class SlowToCancel:
    """An api that is slow to cancel, and calls back a while later."""

    def __init__(self, log: RequestLog, *, status: int) -> None:
        self.api = self
        self._log = log
        self._status = status

    async def cancel(self, task_id: str) -> int:
        await asyncio.sleep(0.2)
        body = json.dumps({"status": "REVOKED", "task_id": "an-id", "result": None}).encode()
        asyncio.get_running_loop().call_later(0.05, self._log.record_callback, Callback(0, 2.0, "an-id"), body)
        return self._status


@pytest.mark.parametrize(
    ("body", "completed", "cancelled", "errors"),
    [
        ({"species": "setosa"}, 1, 0, 0),
        ({"status": "FAILURE", "task_id": "an-id", "result": {"args": ["no"]}}, 0, 0, 1),
        ({"status": "REVOKED", "task_id": "an-id", "result": None}, 0, 1, 0),
    ],
    ids=["done", "failed", "cancelled"],
)
def test_a_callback_shows_that_a_task_ended_before_it_was_cancelled(
    body: dict[str, Any], completed: int, cancelled: int, errors: int
) -> None:
    log = log_of_an_accepted_request()
    log.requests[0].is_cancelled = True
    log.record_callback(Callback(0, 2.0, "an-id"), json.dumps(body).encode())
    assert (log.requests[0].completed is not None, log.requests[0].is_cancelled) == (completed, cancelled)
    assert log.errors.total() == errors
    assert log.outstanding == {}


@pytest.mark.parametrize("status", [200, 503], ids=["cancelled", "cancelled, with an error as response"])
def test_callbacks_are_awaited_after_the_last_cancel_however_long_that_took(status: int) -> None:
    log = log_of_an_accepted_request()
    timings = BenchTimings(poll_interval=0.01, idle_timeout=0.15)
    drain = Drain(SlowToCancel(log, status=status), log, timings, lambda text: None, time.monotonic)  # type: ignore[arg-type]
    asyncio.run(drain.cancel_remaining())
    assert (log.outstanding, log.requests[0].is_cancelled, log.errors) == ({}, True, {})
