"""The bench's callback receiver."""

from __future__ import annotations

import asyncio
import socket

import pytest

from denzel.errors import PortTaken
from denzel.loadtest.http.client import HttpClient
from denzel.loadtest.http.sink import CallbackSink


def post(path: str, *, method: str = "POST", body: bytes = b"{}") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nWebhook-Id: task\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_callbacks_are_accepted_on_the_paths_of_this_run_alone() -> None:
    received: list[tuple[int, str, bytes]] = []

    def on_callback(number: int, when: float, webhook_id: str, body: bytes) -> None:
        received.append((number, webhook_id, body))

    async def run() -> list[int]:
        async with CallbackSink("127.0.0.1", 0, on_callback) as sink, HttpClient("127.0.0.1", sink.port) as client:
            path = "/" + sink.address("here", 3).split("/", 3)[3]
            requests = [post(path), post(path[:-1] + "x"), post("/3"), post(path, method="GET"), post(path[:-1])]
            return [(await client.send(request)).status for request in requests]

    assert asyncio.run(run()) == [204, 404, 404, 405, 404]
    assert received == [(3, "task", b"{}")]


def test_a_callback_that_is_too_long_closes_its_connection() -> None:
    async def run() -> bytes:
        async with CallbackSink("127.0.0.1", 0, lambda *_: None) as sink:
            reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(run()).startswith(b"HTTP/1.1 413 ")


def test_a_port_that_is_taken_is_refused() -> None:
    async def run(port: int) -> None:
        async with CallbackSink("127.0.0.1", port, lambda *_: None):
            pass

    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(PortTaken) as caught:
        asyncio.run(run(port := server.getsockname()[1]))
    assert str(caught.value) == f"The receiver cannot listen on port {port}: Address already in use."
    assert "--port" in caught.value.hint
