"""protocol.py and transport.py: limits on requests, error responses, and connections that are closed in order."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.asgi_client import LOOP
from support.waiting import until
from uvicorn.config import Config
from uvicorn.server import ServerState

from app.serving.api.http import protocol, transport
from app.serving.api.http.protocol import Protocol, error_response
from app.serving.api.http.transport import CoalescingTransport

Connect = Callable[[], socket.socket]


@pytest.mark.parametrize(
    ("status", "description"),
    [
        (400, "Invalid HTTP request received."),
        (431, "A header may have 8190 bytes at most."),
        (501, "The only supported transfer coding is chunked."),
        (414, "G\u00e9T <script>"),
    ],
)
def test_an_error_is_an_http_response_in_the_shape_of_the_api(status: int, description: str) -> None:
    head, _, body = error_response(status, description).decode().partition("\r\n\r\n")
    assert head.splitlines()[0].startswith(f"HTTP/1.1 {status} ")
    assert "Content-Type: application/json; charset=utf-8" in head.splitlines()
    assert f"Content-Length: {len(body.encode())}" in head.splitlines()
    assert "Connection: close" in head.splitlines()
    problem = json.loads(body)
    assert sorted(problem) == ["description", "status", "title"]
    assert problem["status"] == status
    assert problem["title"]
    assert problem["description"] == description


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers with the length of the body; the body `slowly` takes 0.2 s.

    At /early and /last the body is not read, and at /last the connection is closed.
    """
    body, more = b"", scope["path"] == "/"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    await asyncio.sleep(0.2 if body == b"slowly" else 0)
    text = str(len(body)).encode()
    headers = [(b"content-length", b"%d" % len(text))]
    if scope["path"] == "/last":
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Makes connections to a server with this protocol."""
    monkeypatch.setattr(protocol, "READ_TIMEOUT", 0.3)
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
    """All that arrives until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin1")


def last_byte(connection: socket.socket) -> bytes:
    """The body of the next response, which is one byte long."""
    answer = b""
    while not answer.partition(b"\r\n\r\n")[2]:
        received = connection.recv(65536)
        assert received, "the server closed the connection"
        answer += received
    return answer[-1:]


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
LAST_POST = POST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


class Wire:
    """A transport that records what is written to it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        """There is no peer."""


def test_writes_of_one_turn_of_the_loop_are_sent_together() -> None:
    wire = Wire()

    async def write() -> None:
        coalescing = CoalescingTransport(wire, asyncio.get_running_loop())  # type: ignore[arg-type]
        for parts in ((b"head ", b"body"), (b"more",)):
            for part in parts:
                coalescing.write(part)
            assert parts[0] not in wire.written
            await asyncio.sleep(0)

    LOOP.run(write())
    assert wire.written == [b"head body", b"more"]


def test_a_close_flushes_what_was_written() -> None:
    wire = Wire()

    async def write() -> None:
        coalescing = CoalescingTransport(wire, asyncio.get_running_loop())  # type: ignore[arg-type]
        coalescing.write(b"the last")
        assert not coalescing.is_closing()
        coalescing.close()
        assert coalescing.is_closing()
        await asyncio.sleep(0)

    LOOP.run(write())
    assert wire.written == [b"the last"]


def test_writes_to_a_client_that_has_gone_are_dropped() -> None:
    wire = Wire()
    failures: list[dict[str, Any]] = []

    async def write() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, failure: failures.append(failure))
        coalescing = CoalescingTransport(wire, loop)  # type: ignore[arg-type]
        coalescing.write(b"too late")
        wire.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop.set_exception_handler(None)

    LOOP.run(write())
    assert (wire.written, failures) == ([], [])


def test_writes_are_flushed_when_the_input_ends() -> None:
    """The end may be read between the write of a response and its flush."""
    wire = Wire()

    async def end() -> bool:
        config = Config(echo, lifespan="off", ws="none", log_config=None)
        config.load()
        protocol = Protocol(config, ServerState(), {}, asyncio.get_running_loop())
        protocol.connection_made(wire)  # type: ignore[arg-type]
        protocol.transport.write(b"the last")
        stays_open = protocol.eof_received()
        if not stays_open:
            wire.close()
        await asyncio.sleep(0)
        protocol.connection_lost(None)
        return stays_open

    assert LOOP.run(end()) is False
    assert (wire.written, wire.closed) == ([b"the last"], True)


def test_a_connection_serves_many_requests(connect: Connect) -> None:
    connection = connect()
    for body in (b"a", b"ab", b"abc"):
        connection.sendall(POST % (len(body), body))
        assert last_byte(connection) == b"%d" % len(body)


def test_pipelined_requests_are_answered_in_order(connect: Connect) -> None:
    connection = connect()
    connection.sendall(POST % (6, b"slowly") + POST % (1, b"a") + LAST_POST % (2, b"ab"))
    answers = everything(connection).split("HTTP/1.1 200 OK\r\n")
    assert [answer[-1] for answer in answers[1:]] == ["6", "1", "2"]


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost", POST % (10, b"short"), POST % (10, b"")])
def test_a_request_that_stalls_is_closed(connect: Connect, sent: bytes) -> None:
    connection = connect()
    connection.sendall(sent)
    answer = everything(connection)
    assert answer.startswith("HTTP/1.1 400 ") if sent else answer == ""


def test_a_client_that_waits_for_a_slow_response_is_not_closed(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "READ_TIMEOUT", 0.05)
    connection = connect()
    connection.sendall(POST % (6, b"slowly"))
    assert last_byte(connection) == b"6"


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost", POST % (10, b"short")])
def test_a_request_that_ends_early_is_400(connect: Connect, sent: bytes) -> None:
    connection = connect()
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
    assert everything(connection).startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize("other", ["h2c", "websocket"])
def test_an_upgrade_is_ignored(connect: Connect, other: str) -> None:
    connection = connect()
    upgrade = f"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {other}\r\nHTTP2-Settings: AA\r\n\r\n".encode()
    for request in (POST.replace(b"\r\n\r\n", upgrade), POST):
        connection.sendall(request % (5, b"abcde"))
        assert last_byte(connection) == b"5"


def test_an_upgrade_with_a_body_in_pieces_is_ignored(connect: Connect) -> None:
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: ")
    for piece in (b"chunked\r\n\r\n", b"3\r\nabc", b"\r\n2\r\nab\r\n", b"0\r\n\r\n"):
        connection.sendall(piece)
    assert last_byte(connection) == b"5"


def test_a_client_that_half_closes_is_still_answered(connect: Connect) -> None:
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
def test_malformed_and_oversized_requests_are_rejected(connect: Connect, request_bytes: bytes, status: int) -> None:
    connection = connect()
    connection.sendall(request_bytes)
    assert everything(connection).startswith(f"HTTP/1.1 {status} ")


def test_bodies_do_not_count_as_headers(connect: Connect) -> None:
    connection = connect()
    connection.sendall(POST % (200_000, b"x" * 200_000) + LAST_POST % (2, b"ab"))
    assert "200000HTTP/1.1 200 OK" in everything(connection)


def test_a_malformed_request_after_a_valid_one_is_rejected(connect: Connect) -> None:
    connection = connect()
    connection.sendall(POST % (1, b"a"))
    assert last_byte(connection) == b"1"
    connection.sendall(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n")
    assert everything(connection).startswith("HTTP/1.1 400 ")


# Responses to requests that are still being sent

EARLY = POST.replace(b"POST /", b"POST /early")
LAST = POST.replace(b"POST /", b"POST /last")
MUCH = 8 * 1024 * 1024


def in_chunks(length: int, path: bytes) -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % path
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (length, b"x" * length)


@pytest.mark.parametrize("path", ["/early", "/last"])
def test_a_client_that_sends_all_before_it_reads_gets_its_response(connect: Connect, path: str) -> None:
    host, port = connect().getpeername()
    # urllib asks to close the connection after the response.
    with urllib.request.urlopen(f"http://{host}:{port}{path}", data=b"x" * MUCH, timeout=30) as answer:
        assert answer.read() == b"0"
    keeps = http.client.HTTPConnection(host, port, timeout=30)
    keeps.request("POST", path, body=b"x" * MUCH)
    assert keeps.getresponse().read() == b"0"
    keeps.close()


@pytest.mark.parametrize("path", [b"/early", b"/last"])
def test_a_client_that_sends_all_in_chunks_gets_its_response(connect: Connect, path: bytes) -> None:
    connection = connect()
    connection.sendall(in_chunks(MUCH, path))
    assert last_byte(connection) == b"0"


def test_a_malformed_request_with_much_data_after_it_gets_its_response(connect: Connect) -> None:
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nX: \x00\r\n\r\n" + b"x" * MUCH)
    assert everything(connection).startswith("HTTP/1.1 400 ")


def test_a_client_whose_headers_are_rejected_may_finish_its_body(connect: Connect) -> None:
    connection = connect()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nX: %s\r\nContent-Length: %d\r\n\r\n" % (b"x" * 9000, MUCH)
    connection.sendall(head + b"x" * MUCH)
    assert everything(connection).startswith("HTTP/1.1 431 ")


def test_a_request_whose_start_came_with_the_previous_one_is_answered(connect: Connect) -> None:
    connection = connect()
    second = POST % (4, b"abcd")
    for end in (10, len(second) - 2):
        connection.sendall(POST % (2, b"ab") + second[:end])
        assert last_byte(connection) == b"2"
        connection.sendall(second[end:])
        assert last_byte(connection) == b"4"


@pytest.mark.parametrize("request_bytes", [EARLY % (MUCH, b"x" * MUCH), in_chunks(MUCH, b"/early")])
def test_the_connection_is_kept_when_the_rest_has_arrived(connect: Connect, request_bytes: bytes) -> None:
    connection = connect()
    connection.sendall(request_bytes)
    assert last_byte(connection) == b"0"
    connection.sendall(POST % (2, b"ab"))
    assert last_byte(connection) == b"2"


def test_the_response_is_sent_before_the_rest_arrives(connect: Connect) -> None:
    connection = connect()
    connection.sendall(EARLY % (4, b"ab"))
    assert last_byte(connection) == b"0"
    connection.sendall(b"cd" + POST % (2, b"ab"))
    assert last_byte(connection) == b"2"


def test_without_a_100_continue_the_body_is_not_waited_for(connect: Connect) -> None:
    connection = connect()
    connection.sendall(EARLY.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") % (MUCH, b""))
    answer = everything(connection)
    assert answer.startswith("HTTP/1.1 200 ")
    assert answer.endswith("0")


def test_after_a_100_continue_the_body_is_read(connect: Connect) -> None:
    connection = connect()
    for _ in range(2):
        connection.sendall(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") % (3, b""))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert last_byte(connection) == b"3"


@pytest.mark.parametrize("request_bytes", [EARLY, LAST])
def test_a_client_that_stalls_after_its_response_gets_no_second_one(connect: Connect, request_bytes: bytes) -> None:
    connection = connect()
    connection.sendall(request_bytes % (10, b"short"))
    assert everything(connection).count("HTTP/1.1 ") == 1
    until(lambda: scheduled("close_now") == 0, what="the server to stop waiting")
    until(lambda: is_cut(connection), what="the server to close the connection")


@pytest.mark.parametrize("request_bytes", [EARLY, LAST])
def test_a_client_that_sends_much_after_its_response_is_cut_off(
    connect: Connect, request_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_LINGER_BYTES", 1024 * 1024)
    connection = connect()
    with pytest.raises(ConnectionError):
        connection.sendall(request_bytes % (2**40, b"x" * 4 * MUCH))


@pytest.mark.parametrize("request_bytes", [EARLY, LAST])
def test_a_client_that_sends_for_long_after_its_response_is_cut_off(
    connect: Connect, request_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LINGER_TIMEOUT", 0.5)
    monkeypatch.setattr(protocol, "READ_TIMEOUT", 3600)
    connection = connect()
    connection.sendall(request_bytes % (2**40, b"x"))
    until(lambda: is_cut(connection), what="the server to close the connection")


def is_cut(connection: socket.socket) -> bool:
    """True when the connection is reset, which one more byte shows."""
    try:
        connection.sendall(b"x")
    except ConnectionError:
        return True
    return False


def test_the_timer_ends_with_the_discarded_request(connect: Connect) -> None:
    connection = connect()
    connection.sendall(EARLY % (4, b"ab"))
    assert last_byte(connection) == b"0"
    assert scheduled("close_now") == 1
    connection.sendall(b"cd" + POST % (2, b"ab"))
    assert last_byte(connection) == b"2"
    assert scheduled("close_now") == 0


def scheduled(name: str) -> int:
    """The number of calls of this name that the loop has scheduled."""

    async def count() -> int:
        timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        return sum(not timer.cancelled() and getattr(timer._callback, "__name__", "") == name for timer in timers)

    return LOOP.run(count())
