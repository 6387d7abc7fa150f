"""Callback receiver of a run."""

from __future__ import annotations

import asyncio

from denzel.loadtest.client import HttpClient
from denzel.loadtest.receiver import Callback, CallbackReceiver


def test_callbacks_are_accepted_on_the_paths_of_this_run_alone() -> None:
    received: list[tuple[int, str, bytes]] = []

    def on_callback(callback: Callback, body: bytes) -> None:
        received.append((callback.number, callback.task_id, body))

    async def run() -> list[int]:
        async with (
            CallbackReceiver("127.0.0.1", 0, on_callback) as receiver,
            HttpClient("127.0.0.1", receiver.port) as client,
        ):
            path = "/" + receiver.address("here", 3).split("/", 3)[3]
            lines = (f"POST {path}", f"POST {path[:-1]}x", "POST /3", f"GET {path}", f"POST {path[:-1]}", "x")
            request = "{} HTTP/1.1\r\nWebhook-Id: task\r\nContent-Length: 2\r\n\r\n{{}}"
            return [(await client.send(request.format(line).encode())).status for line in lines]

    assert asyncio.run(run()) == [204, 404, 404, 405, 404, 400]
    assert received == [(3, "task", b"{}")]
