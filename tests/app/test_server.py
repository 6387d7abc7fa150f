"""app/server.py: what clients may send, and what is answered when that never reaches the application."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from serving import LOOP
from uvicorn.config import Config
from uvicorn.server import ServerState

from app import server
from app.server import Protocol, error_answer

Connect = Callable[[], socket.socket]


@pytest.mark.parametrize(
    ("status", "description"),
    [
        (400, "Invalid HTTP request received."),
        (431, "A header may have 8190 bytes at most."),
        (501, "Of transfer codings, only chunked is known."),
        (414, "G\u00e9T <script>"),
    ],
)
def test_the_error_is_an_http_answer_in_the_shape_of_the_api(status: int, description: str) -> None:
    head, _, body = error_answer(status, description).decode("latin1").partition("\r\n\r\n")
    assert head.splitlines()[0].startswith(f"HTTP/1.1 {status} ")
    assert "Content-Type: application/json; charset=utf-8" in head.splitlines()
    assert f"Content-Length: {len(body)}" in head.splitlines()
    assert "Connection: close" in head.splitlines()
    problem = json.loads(body)
    assert sorted(problem) == ["description", "status", "title"]
    assert problem["status"] == status
    assert problem["title"]
    assert problem["description"] == description


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body that came; a body `slowly` takes its time."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    await asyncio.sleep(0.2 if body == b"slowly" else 0)
    text = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Makes connections to a server with this protocol."""
    monkeypatch.setattr(server, "SILENCE", 0.3)
    config = Config(echo, lifespan="off", ws="none", log_config=None)
    config.load()

    async def start() -> Any:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Protocol(config, ServerState(), {}, loop), "127.0.0.1", 0)

    serving = LOOP.run(start())
    made = []

    def make() -> socket.socket:
        made.append(socket.create_connection(serving.sockets[0].getsockname(), timeout=10))
        return made[-1]

    yield make
    for connection in made:
        connection.close()
    LOOP.cancel_all()

    async def stop() -> None:
        serving.close()

    LOOP.run(stop())


def everything(connection: socket.socket) -> str:
    """What comes until the server hangs up."""
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin1")


def last_byte(connection: socket.socket) -> bytes:
    """The body of the next answer, which is one byte long."""
    answer = b""
    while not answer.partition(b"\r\n\r\n")[2]:
        answer += connection.recv(65536)
    return answer[-1:]


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
LAST_POST = POST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def test_a_connection_serves_many_requests(connect: Connect) -> None:
    connection = connect()
    for body in (b"a", b"ab", b"abc"):
        connection.sendall(POST % (len(body), body))
        assert last_byte(connection) == b"%d" % len(body)


def test_requests_that_come_at_once_are_answered_in_their_order(connect: Connect) -> None:
    connection = connect()
    connection.sendall(POST % (6, b"slowly") + POST % (1, b"a") + LAST_POST % (2, b"ab"))
    answers = everything(connection).split("HTTP/1.1 200 OK\r\n")
    assert [answer[-1] for answer in answers[1:]] == ["6", "1", "2"]


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost", POST % (10, b"short"), POST % (10, b"")])
def test_a_client_that_falls_silent_is_hung_up_on(connect: Connect, sent: bytes) -> None:
    connection = connect()
    connection.sendall(sent)
    answer = everything(connection)
    assert answer.startswith("HTTP/1.1 400 ") if sent else answer == ""


def test_a_client_that_waits_for_a_slow_answer_is_not(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SILENCE", 0.05)
    connection = connect()
    connection.sendall(POST % (6, b"slowly"))
    assert last_byte(connection) == b"6"


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost", POST % (10, b"short")])
def test_a_request_that_ends_early_is_400(connect: Connect, sent: bytes) -> None:
    connection = connect()
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
    assert everything(connection).startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize("wish", ["h2c", "websocket"])
def test_a_wish_for_another_protocol_is_ignored(connect: Connect, wish: str) -> None:
    connection = connect()
    upgrade = f"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {wish}\r\nHTTP2-Settings: AA\r\n\r\n".encode()
    for request in (POST.replace(b"\r\n\r\n", upgrade), POST):
        connection.sendall(request % (5, b"abcde"))
        assert last_byte(connection) == b"5"


def test_a_wish_for_another_protocol_with_a_body_in_pieces_is_ignored(connect: Connect) -> None:
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: ")
    for piece in (b"chunked\r\n\r\n", b"3\r\nabc", b"\r\n2\r\nab\r\n", b"0\r\n\r\n"):
        connection.sendall(piece)
    assert last_byte(connection) == b"5"


def test_a_client_that_sends_no_more_is_still_answered(connect: Connect) -> None:
    connection = connect()
    connection.sendall(POST % (6, b"slowly"))
    connection.shutdown(socket.SHUT_WR)
    assert everything(connection).endswith("6")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 8190 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 4094, 414),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_what_breaks_the_rules_or_a_bound_is_refused(connect: Connect, request_bytes: bytes, status: int) -> None:
    connection = connect()
    connection.sendall(request_bytes)
    assert everything(connection).startswith(f"HTTP/1.1 {status} ")


def test_long_bodies_count_for_no_head(connect: Connect) -> None:
    connection = connect()
    connection.sendall(POST % (200_000, b"x" * 200_000) + LAST_POST % (2, b"ab"))
    assert "200000HTTP/1.1 200 OK" in everything(connection)
