"""exchange.py: responses of any form, and the deadlines of an exchange."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from doubles.endpoint import OK, Listen, SocketServer, answer_all, read_request
from support.callbacks import open_pool, post
from support.waiting import until

from app.serving.callbacks import exchange
from app.serving.callbacks.exchange import RESPONSE_LIMIT, BadResponse, Response


@pytest.mark.parametrize("status", [200, 204, 301, 307, 404, 429, 500])
def test_a_response_is_its_status_and_its_retry_after(listen: Listen, status: int) -> None:
    head = f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:1/\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    server = listen(answer_all(head.encode(), []))
    with open_pool() as connections:
        assert post(connections, server.port) == Response(status, "7")
    assert server.accepted == 1


def test_an_endpoint_that_sends_nothing_times_out(listen: Listen) -> None:
    server = listen(lambda connection: read_request(connection) and server.stopped.wait(20))
    began = time.monotonic()
    with open_pool(0.3) as connections, pytest.raises(TimeoutError):
        post(connections, server.port)
    assert time.monotonic() - began < 2
    server.stopped.set()


def test_an_endpoint_that_reads_nothing_times_out(listen: Listen) -> None:
    server = listen(lambda connection: server.stopped.wait(20))
    with open_pool(0.3) as connections, pytest.raises(TimeoutError):
        post(connections, server.port, body=bytes(50_000_000))
    server.stopped.set()


def drip(server: SocketServer, connection: socket.socket, first: bytes) -> None:
    read_request(connection)
    connection.sendall(first)
    while not server.stopped.wait(0.05):
        connection.sendall(b"x")


def test_an_endpoint_that_drips_its_response_is_cut_off(listen: Listen) -> None:
    server = listen(lambda connection: drip(server, connection, b"HTTP/1.1 200 OK\r\nX-Drip: "))
    began = time.monotonic()
    with open_pool(0.3) as connections, pytest.raises(TimeoutError, match=r"no whole answer within 0\.6 s"):
        post(connections, server.port)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 1000000000\r\n"], ids=["to the end", "a length"])
def test_a_response_that_never_ends_counts_by_its_status(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, framing: bytes
) -> None:
    monkeypatch.setattr(exchange, "RESPONSE_TIMEOUT", 0.2)
    server = listen(lambda connection: drip(server, connection, b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n"))
    began = time.monotonic()
    with open_pool(10) as connections:
        assert post(connections, server.port) == Response(200, None)
        assert time.monotonic() - began < 3
        post(connections, server.port)
    assert server.accepted == 2


def test_a_bounded_part_of_a_flood_is_read(listen: Listen) -> None:
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.stopped.is_set():
            sent += connection.send(bytes(65536))

    server = listen(flood)
    with open_pool() as connections:
        assert post(connections, server.port).status == 200
    size = until(lambda: sent, what="the flood")
    assert size < 50_000_000


@pytest.mark.parametrize(
    "response", [b"nonsense\r\n\r\n", b"HTTP/1.1 two hundred\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n"]
)
def test_a_response_that_is_no_http_is_a_failure(listen: Listen, response: bytes) -> None:
    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(response)

    server = listen(handle)
    with open_pool() as connections, pytest.raises(BadResponse):
        post(connections, server.port)


def test_a_head_that_is_too_long_is_a_failure(listen: Listen) -> None:
    server = listen(answer_all(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * RESPONSE_LIMIT + b"\r\n", []))
    with open_pool() as connections, pytest.raises(BadResponse):
        post(connections, server.port)


def test_a_response_before_the_body_is_read_counts(listen: Listen) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    server = listen(handle)
    with open_pool() as connections:
        assert post(connections, server.port, body=bytes(5_000_000)).status == 413


@pytest.mark.parametrize("interim", [100, 102, 103])
def test_an_interim_response_is_skipped(listen: Listen, interim: int) -> None:
    early = f"HTTP/1.1 {interim} Early\r\nRetry-After: 9\r\n\r\n".encode()
    server = listen(answer_all(2 * early + b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", []))
    with open_pool() as connections:
        for _ in range(2):
            assert post(connections, server.port) == Response(503, None)
    assert server.accepted == 1


def test_an_upgrade_is_a_response_and_ends_the_connection(listen: Listen) -> None:
    head = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x00"
    server = listen(answer_all(head, []))
    with open_pool() as connections:
        for _ in range(2):
            assert post(connections, server.port).status == 101
    assert server.accepted == 2


def test_a_chunked_response_is_read_to_its_end(listen: Listen) -> None:
    chunks = b"5\r\nfine!\r\n0\r\n\r\n"
    server = listen(answer_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, []))
    with open_pool() as connections:
        for _ in range(3):
            assert post(connections, server.port).status == 200
    assert server.accepted == 1


@pytest.mark.parametrize("surplus", [OK, b"HTTP/1.1 2", b"x"])
def test_what_follows_a_response_answers_no_other_request(listen: Listen, surplus: bytes) -> None:
    server = listen(answer_all(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n" + surplus, []))
    with open_pool() as connections:
        for _ in range(3):
            assert post(connections, server.port).status == 503
    assert server.accepted == 3


def test_a_response_without_a_request_ends_an_idle_connection(listen: Listen) -> None:
    returned, ended = threading.Event(), threading.Event()

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        assert returned.wait(5)
        connection.sendall(OK)
        assert not read_request(connection)
        ended.set()

    server = listen(handle)
    with open_pool() as connections:
        for _ in range(2):
            assert post(connections, server.port).status == 503
            returned.set()
            assert ended.wait(5)
            returned.clear()
            ended.clear()
    assert server.accepted == 2


def test_the_time_out_begins_when_the_body_is_sent(listen: Listen) -> None:
    body = bytes(16_000_000)

    def handle(connection: socket.socket) -> None:
        left = len(body)
        while left > 0:
            left -= len(connection.recv(1_000_000, socket.MSG_WAITALL))
            time.sleep(0.07)
        time.sleep(1.2)
        connection.sendall(OK)

    server = listen(handle)
    with open_pool(2) as connections:
        began = time.monotonic()
        assert post(connections, server.port, body=body).status == 200
        assert time.monotonic() - began > 2


def test_a_response_before_the_body_is_read_does_not_leave_a_connection_to_reuse(listen: Listen) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(OK)
        server.stopped.wait(20)

    server = listen(handle)
    with open_pool() as connections:
        for _ in range(2):
            assert post(connections, server.port, body=bytes(20_000_000)).status == 200
    assert server.accepted == 2
    server.stopped.set()
