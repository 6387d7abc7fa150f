"""The drain of a bench: callbacks and cancelled tasks."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from denzel.loadtest.bench.drain import Drain
from denzel.loadtest.bench.request_log import RequestLog
from denzel.loadtest.bench.requests import RequestTemplates
from denzel.loadtest.http.client import HttpResponse


def log_of_an_accepted_request() -> RequestLog:
    log = RequestLog(synchronous=False, has_callback=lambda number: True)
    head = b"HTTP/1.1 200 OK\r\nlocation: /status/an-id\r\n\r\n"
    assert log.record_response(log.begin(0.0), HttpResponse(status=200, head=head, body=b"{}", when=1.0))
    return log


class SlowToCancel:
    """A client of an api that is slow to cancel, and calls back a while later."""

    def __init__(self, log: RequestLog, *, status: int) -> None:
        self._log = log
        self._status = status

    async def send(self, request: bytes) -> HttpResponse:
        await asyncio.sleep(0.2)
        body = json.dumps({"status": "REVOKED", "task_id": "an-id", "result": None}).encode()
        asyncio.get_running_loop().call_later(0.05, self._log.record_callback, 0, 2.0, "an-id", body)
        return HttpResponse(status=self._status, head=b"", body=b"{}", when=1.0)


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
    log.cancelled.add(0)
    log.record_callback(0, 2.0, "an-id", json.dumps(body).encode())
    assert (len(log.completed), len(log.cancelled)) == (completed, cancelled)
    assert sum(error.count for error in log.errors) == errors
    assert log.outstanding == 0


@pytest.mark.parametrize("status", [200, 503], ids=["cancelled", "cancelled, with an error as response"])
def test_callbacks_are_awaited_after_the_last_cancel_however_long_that_took(status: int) -> None:
    log = log_of_an_accepted_request()
    drain = Drain(
        SlowToCancel(log, status=status),  # type: ignore[arg-type]
        RequestTemplates([{}], server=("127.0.0.1", 1), key="", address="http://127.0.0.1:1/", always=True, prefer=""),
        doing=lambda text: None,
        poll_interval=0.01,
        idle_timeout=0.15,
        clock=time.monotonic,
    )
    asyncio.run(drain.cancel_remaining(log))
    assert (log.outstanding, log.cancelled, log.errors) == (0, {0}, [])
