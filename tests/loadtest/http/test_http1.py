"""HTTP as a load generator speaks it: messages on a stream, kept connections, and a receiver of callbacks."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from denzel.errors import PortTaken
from denzel.loadtest.bench.requests import RequestTemplates
from denzel.loadtest.http.client import HttpClient, NoResponse
from denzel.loadtest.http.http1 import MalformedMessage, MessageParser, header
from denzel.loadtest.http.sink import CallbackSink

LIMIT = 1000


def messages(*pieces: bytes) -> list[tuple[bytes, bytes]]:
    parser = MessageParser(body_limit=LIMIT)
    return [message for piece in pieces for message in parser.feed(piece)]


STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nLocation: /status/7\r\n\r\nhello"
    b"HTTP/1.1 204 No Content\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"
    b"HTTP/1.1 503 No\r\ncontent-length:0\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, len(STREAM)])
def test_messages_are_found_however_their_bytes_come(size: int) -> None:
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    found = messages(*pieces)
    assert [head[9:12] for head, _ in found] == [b"200", b"204", b"200", b"503"]
    assert [body for _, body in found] == [b"hello", b"", b"abc0123456789", b""]
    assert header(found[0][0], b"location") == b"/status/7"
    assert header(found[0][0], b"retry-after") == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx!\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + b"x" * 70_000, 431),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(MalformedMessage) as caught:
        messages(data)
    assert caught.value.status == status


# ------------------------------------------------------------------ the client

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def serve(answering: Answering, ask: Callable[[HttpClient], Awaitable[None]]) -> None:
    server = await asyncio.start_server(answering, "127.0.0.1", 0)
    async with server, HttpClient("127.0.0.1", server.sockets[0].getsockname()[1]) as client:
        await ask(client)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


def answerer(answer: bytes, *, requests: int = 1000) -> tuple[Answering, list[int]]:
    """Answers so many requests on each connection, and counts those of each."""
    connections: list[int] = []

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(connections)
        connections.append(0)
        try:
            for _ in range(requests):
                await reader.readuntil(b"\r\n\r\n")
                connections[number] += 1
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            """The client has gone."""
        finally:
            writer.close()

    return answering, connections


REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_connection_is_used_again_and_as_many_as_needed_are_made() -> None:
    answering, connections = answerer(OK)

    async def ask(client: HttpClient) -> None:
        for _ in range(5):
            assert (await client.send(REQUEST)).body == b"ok"
        await asyncio.gather(*(client.send(REQUEST) for _ in range(3)))

    asyncio.run(serve(answering, ask))
    assert sum(connections) == 8
    assert len(connections) == 3


@pytest.mark.parametrize("answer", [OK, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
def test_a_server_that_closes_its_connections_is_asked_over_new_ones(answer: bytes) -> None:
    answering, connections = answerer(answer, requests=1)

    async def ask(client: HttpClient) -> None:
        for _ in range(4):
            assert (await client.send(REQUEST)).status == 200

    asyncio.run(serve(answering, ask))
    assert connections == [1, 1, 1, 1]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"no HTTP\r\n\r\n"])
def test_an_answer_that_is_none_or_breaks_off_is_no_answer(answer: bytes) -> None:
    answering, _ = answerer(answer, requests=1)

    async def ask(client: HttpClient) -> None:
        with pytest.raises(NoResponse):
            await client.send(REQUEST)

    asyncio.run(serve(answering, ask))


# ------------------------------------------------------------------ requests


def templates(
    *requests: dict[str, object], always: bool = True, prefer: str = "", key: str = "", idempotency_key: str = ""
) -> RequestTemplates:
    return RequestTemplates(
        requests,
        server=("127.0.0.1", 8000),
        key=key,
        prefer=prefer,
        address="http://here:9000/abc/000000000",
        always=always,
        idempotency_key=idempotency_key,
    )


def parts(request: bytes) -> tuple[bytes, dict[str, object]]:
    ((head, body),) = messages(request)
    return head, json.loads(body)


def test_each_request_has_its_number_in_its_callback() -> None:
    made = templates({"data": "000000000", "callback_uri": "http://elsewhere/"}, {"data": "ü"})
    assert parts(made.predict(0))[1] == {"data": "000000000", "callback_uri": "http://here:9000/abc/000000000"}
    assert parts(made.predict(1))[1] == {"data": "ü", "callback_uri": "http://here:9000/abc/000000001"}
    assert parts(made.predict(123456))[1]["callback_uri"] == "http://here:9000/abc/000123456"


def test_a_request_without_a_callback_stays_without_where_nobody_waits_for_it() -> None:
    made = templates({"data": 1}, {"data": 2, "callback_uri": "http://elsewhere/"}, always=False)
    assert parts(made.predict(2))[1] == {"data": 1}
    assert parts(made.predict(3))[1] == {"data": 2, "callback_uri": "http://here:9000/abc/000000003"}
    assert (made.has_callback(0), made.has_callback(1)) == (False, True)


def test_preference_and_key_are_headers() -> None:
    head, _ = parts(templates({}, prefer="wait=60", key="secret").predict(0))
    assert (header(head, b"prefer"), header(head, b"authorization")) == (b"wait=60", b"Bearer secret")
    head, _ = parts(templates({}).predict(0))
    assert (header(head, b"prefer"), header(head, b"authorization")) == (b"", b"")


def test_a_request_that_may_be_sent_again_has_a_key_and_the_same_body() -> None:
    first, again = (
        templates({"data": 1}, prefer=prefer, idempotency_key="k1").predict(0) for prefer in ("wait=60", "")
    )
    assert parts(first)[1] == parts(again)[1]
    assert [header(parts(sent)[0], b"idempotency-key") for sent in (first, again)] == [b"k1", b"k1"]
    assert header(parts(templates({}).predict(0))[0], b"idempotency-key") == b""


# ------------------------------------------------------------------ the receiver of callbacks


class Taken:
    def __init__(self) -> None:
        self.callbacks: list[tuple[int, str, bytes]] = []

    def __call__(self, number: int, when: float, webhook_id: str, body: bytes) -> None:
        self.callbacks.append((number, webhook_id, body))


def post(path: str, *, method: str = "POST", body: bytes = b"{}") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nWebhook-Id: task\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_callbacks_are_taken_on_the_paths_of_this_run_alone() -> None:
    taken = Taken()

    async def run() -> list[int]:
        async with CallbackSink("127.0.0.1", 0, taken) as sink, HttpClient("127.0.0.1", sink.port) as client:
            path = "/" + sink.address("here", 3).split("/", 3)[3]
            requests = [post(path), post(path[:-1] + "x"), post("/3"), post(path, method="GET"), post(path[:-1])]
            return [(await client.send(request)).status for request in requests]

    assert asyncio.run(run()) == [204, 404, 404, 405, 404]
    assert taken.callbacks == [(3, "task", b"{}")]


def test_a_callback_that_is_too_long_ends_its_connection() -> None:
    async def run() -> bytes:
        async with CallbackSink("127.0.0.1", 0, Taken()) as sink:
            reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(run()).startswith(b"HTTP/1.1 413 ")


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_refused() -> None:
    async def run(port: int) -> None:
        async with CallbackSink("127.0.0.1", port, Taken()):
            pass

    with taken_port() as port, pytest.raises(PortTaken) as caught:
        asyncio.run(run(port))
    assert str(caught.value) == f"The receiver cannot listen on port {port}: Address already in use."
    assert "--port" in caught.value.hint
