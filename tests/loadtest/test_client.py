"""Asynchronous HTTP client, and its connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from denzel.loadtest.client import HttpClient, NoResponse

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def serve(handler: Handler, send: Callable[[HttpClient], Awaitable[None]]) -> None:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server, HttpClient("127.0.0.1", server.sockets[0].getsockname()[1]) as client:
        await send(client)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


def answer_each(response: bytes, *, requests: int = 1000) -> tuple[Handler, list[int]]:
    """A handler of so many requests on each connection, and the number of those on each."""
    connections: list[int] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(connections)
        connections.append(0)
        try:
            for _ in range(requests):
                await reader.readuntil(b"\r\n\r\n")
                connections[number] += 1
                writer.write(response)
        except (asyncio.IncompleteReadError, ConnectionError):
            """The client has gone."""
        finally:
            writer.close()

    return handler, connections


REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_connections_are_reused_and_as_many_as_needed_are_opened() -> None:
    handler, connections = answer_each(OK)

    async def send(client: HttpClient) -> None:
        for _ in range(5):
            assert (await client.send(REQUEST)).body == b"ok"
        await asyncio.gather(*(client.send(REQUEST) for _ in range(3)))

    asyncio.run(serve(handler, send))
    assert sum(connections) == 8
    assert len(connections) == 3


@pytest.mark.parametrize("response", [OK, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
def test_a_server_that_closes_its_connections_is_sent_requests_over_new_ones(response: bytes) -> None:
    handler, connections = answer_each(response, requests=1)

    async def send(client: HttpClient) -> None:
        for _ in range(4):
            assert (await client.send(REQUEST)).status == 200

    asyncio.run(serve(handler, send))
    assert connections == [1, 1, 1, 1]


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"no HTTP\r\n\r\n"])
def test_a_response_that_is_malformed_or_cut_off_is_none(response: bytes) -> None:
    handler, _ = answer_each(response, requests=1)

    async def send(client: HttpClient) -> None:
        with pytest.raises(NoResponse):
            await client.send(REQUEST)

    asyncio.run(serve(handler, send))
