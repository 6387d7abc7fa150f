"""Callback receiver, and its faults."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from denzel.loadtest.client import HttpClient, NoResponse
from denzel.webhooks import receiver as module
from denzel.webhooks.receiver import Behaviour, Receiver

POST = b"POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"


def run(story: Callable[[Receiver, HttpClient], Awaitable[None]], *, delay: float = 0) -> list[str]:
    """The paths of the callbacks that a receiver took."""
    taken: list[str] = []

    def take(path: str, head: bytes, body: bytes) -> int:
        taken.append(path)
        return 204

    async def tell() -> None:
        receiver = Receiver("127.0.0.1", 0, take, delay=delay)
        await receiver.open()
        try:
            async with HttpClient("127.0.0.1", receiver.port) as client:
                await story(receiver, client)
        finally:
            await receiver.close()

    asyncio.run(tell())
    return taken


async def read(receiver: Receiver, request: bytes) -> bytes:
    """All that is answered on a connection of its own, until the receiver ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


async def no_answer(client: HttpClient) -> bool:
    try:
        async with asyncio.timeout(0.2):
            await client.send(POST)
    except TimeoutError:
        return True
    return False


def test_a_receiver_answers_500_hangs_is_down_and_recovers() -> None:
    async def story(receiver: Receiver, client: HttpClient) -> None:
        await receiver.set_behaviour(Behaviour.ERROR)
        assert (await client.send(POST)).status == 500
        await receiver.set_behaviour(Behaviour.HANG)
        assert await no_answer(client)
        await receiver.set_behaviour(Behaviour.DOWN)
        with pytest.raises(NoResponse):
            await client.send(POST)
        await receiver.set_behaviour(Behaviour.ACCEPT)
        assert (await client.send(POST)).status == 204

    assert run(story) == ["/a"]


def test_a_slow_receiver_takes_what_its_sender_still_waits_for() -> None:
    async def story(receiver: Receiver, client: HttpClient) -> None:
        await receiver.set_behaviour(Behaviour.SLOW)
        assert await no_answer(client)
        began = asyncio.get_running_loop().time()
        assert (await client.send(POST)).status == 204
        assert asyncio.get_running_loop().time() - began >= 0.49

    assert run(story, delay=0.5) == ["/a"]


def test_a_receiver_that_is_down_is_not_reached_over_an_earlier_connection() -> None:
    async def story(receiver: Receiver, client: HttpClient) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
        writer.write(POST)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
        await receiver.set_behaviour(Behaviour.DOWN)
        assert await reader.read() == b""
        writer.close()

    assert run(story) == ["/a"]


def test_what_hangs_goes_on_hanging_until_the_receiver_ends() -> None:
    async def story(receiver: Receiver, client: HttpClient) -> None:
        await receiver.set_behaviour(Behaviour.HANG)
        hanging = asyncio.create_task(client.send(POST))
        async with asyncio.timeout(10):
            while not any(connection.is_hanging for connection in receiver.connections):
                await asyncio.sleep(0.01)
        await receiver.set_behaviour(Behaviour.DOWN)
        await receiver.set_behaviour(Behaviour.ACCEPT)
        assert not hanging.done()
        await receiver.close()
        with pytest.raises(NoResponse):
            await hanging

    assert run(story) == []


@pytest.mark.parametrize(("length", "status"), [("", 411), ("1.5", 411), (str(65 * 2**20), 413)])
def test_a_receiver_reads_no_unbounded_body(length: str, status: int) -> None:
    async def story(receiver: Receiver, client: HttpClient) -> None:
        header = f"Content-Length: {length}\r\n" if length else ""
        answer = await read(receiver, f"POST / HTTP/1.1\r\nHost: a\r\n{header}\r\n".encode())
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert (await client.send(POST)).status == 204

    assert run(story) == ["/a"]


@pytest.mark.parametrize(("version", "header"), [("1.0", ""), ("1.1", "Connection: close\r\n")])
def test_a_sender_that_asks_for_it_is_sent_the_end_of_the_connection(version: str, header: str) -> None:
    async def story(receiver: Receiver, client: HttpClient) -> None:
        request = f"POST /a HTTP/{version}\r\n{header}Content-Length: 2\r\n\r\n{{}}".encode()
        assert (await read(receiver, request)).startswith(b"HTTP/1.1 204 ")

    assert run(story) == ["/a"]


def test_a_sender_may_ask_before_it_sends_a_body() -> None:
    async def story(receiver: Receiver, client: HttpClient) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
        writer.write(b"POST /a HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
        writer.close()

    assert run(story) == ["/a"]


def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_LIMIT", 0.1)

    async def story(receiver: Receiver, client: HttpClient) -> None:
        assert await read(receiver, b"POST / HTTP/1.1\r\n") == b""

    assert run(story) == []
