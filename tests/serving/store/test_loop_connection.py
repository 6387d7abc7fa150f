"""store/loop: many commands on one connection, each with its own reply, through breaks, time-outs and refusals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis import Redis, RedisError
from redis.exceptions import AuthenticationError, OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as TimedOut
from support.asgi_client import LOOP
from support.redis_server import counted_commands
from support.waiting import until

from app.serving.store import connection as settings
from app.serving.store import keys
from app.serving.store.connection import connect
from app.serving.store.loop.connection import LoopConnection
from app.serving.store.loop.tasks import LoopScript
from app.serving.store.tasks import (
    Enqueued,
    Idempotency,
    KeyReused,
    NewTask,
    QueueFull,
    accept_arguments,
    read_accepted,
)

KEY = Idempotency(key="digest-of-the-key", body="digest-of-the-body")
OTHER_BODY = Idempotency(key=KEY.key, body="digest-of-another-body")

Open = Callable[..., LoopConnection]


@pytest.fixture
def open_loop() -> Iterator[Open]:
    """A connection with these options, to the Redis at this address: open_loop(url, channels=["a"])."""
    opened: list[LoopConnection] = []

    def open_one(url: str, **options: Any) -> LoopConnection:
        opened.append(LoopConnection(connect(url), **options))
        return opened[-1]

    yield open_one
    for each in opened:
        LOOP.call(each.close)


@pytest.fixture
def link(open_loop: Open, redis: Redis, redis_url: str) -> LoopConnection:
    return open_loop(redis_url)


class Proxy:
    """A way to Redis that passes commands on, and can `cut` connections instead of passing a reply on."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(f":{parts.port}/", f":{self._server.getsockname()[1]}/")
        self.cut = 0
        self._sockets = [self._server]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, redis = self._server.accept()[0], socket.create_connection(self._target)
                self._sockets += [client, redis]
                for source, sink, is_reply in ((client, redis, False), (redis, client, True)):
                    threading.Thread(target=self._pump, args=(source, sink, is_reply), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_reply: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_reply and self.cut:
                    self.cut -= 1
                    break
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        return len(self._sockets) // 2

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@pytest.fixture
def proxy(redis: Redis, redis_url: str) -> Iterator[Proxy]:
    proxy = Proxy(redis_url)
    yield proxy
    proxy.close()


def call(link: LoopConnection, *command: str | int) -> Any:
    return LOOP.run(called(link, *command))


async def called(link: LoopConnection, *command: str | int) -> Any:
    return await link.call(*command)


def echoes(link: LoopConnection) -> bool:
    try:
        return bool(call(link, "ECHO", "a") == "a")
    except RedisError:
        return False


def call_many(link: LoopConnection, *commands: tuple[str | int, ...]) -> list[Any]:
    """The reply, or the error, of each of these commands, which are sent in one turn of the loop."""

    async def gathered() -> list[Any]:
        return await asyncio.gather(*(link.call(*command) for command in commands), return_exceptions=True)

    return LOOP.run(gathered())


def accept(link: LoopConnection, tasks: list[NewTask], queue_limit: int = 10) -> list[tuple[Any, bool]]:
    """The outcome of each task, and whether its command was repeated."""

    async def accepted() -> list[tuple[Any, bool]]:
        script = LoopScript(link, "tasks/accept")
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in tasks]
        for task, future in zip(tasks, futures, strict=True):
            script.send(
                accept_arguments(task, queue_limit=queue_limit),
                lambda *reply, future=future: future.set_result(reply),
            )
        replies = await asyncio.gather(*futures)
        return [(reply if isinstance(reply, RedisError) else read_accepted(reply), again) for reply, again in replies]

    return LOOP.run(accepted())


def new_tasks(names: str, **of_each: Any) -> list[NewTask]:
    return [NewTask(task_id=name, message=f"message of {name}", **of_each) for name in names]


def test_each_of_many_commands_has_its_own_reply(link: LoopConnection) -> None:
    commands = [("ECHO", f"naïve ☃ {number}") if number % 7 else ("NO SUCH COMMAND",) for number in range(2000)]
    replies = call_many(link, *commands)
    for number, reply in enumerate(replies):
        assert isinstance(reply, ResponseError) if number % 7 == 0 else reply == f"naïve ☃ {number}"
    assert link.backlog == 0


def test_many_are_accepted_in_their_order(link: LoopConnection, redis: Redis) -> None:
    call(link, "PING")
    with counted_commands(redis) as commands:
        outcomes = accept(link, new_tasks("abc"))
    assert set(commands) <= {"evalsha", "eval"}
    assert outcomes == [(Enqueued(task_id=name), False) for name in "abc"]
    assert redis.lrange(keys.QUEUE, 0, 2) == ["message of c", "message of b", "message of a"]


def test_each_of_many_has_its_own_outcome(link: LoopConnection) -> None:
    accept(link, new_tasks("o", idempotency=KEY))
    tasks = [
        *new_tasks("a"),
        *new_tasks("b", idempotency=KEY),
        *new_tasks("c", idempotency=OTHER_BODY),
        *new_tasks("de"),
    ]
    a, b, c, d, e = [outcome for outcome, _ in accept(link, tasks, queue_limit=3)]
    assert (a, b, d) == (Enqueued(task_id="a"), Enqueued(task_id="o"), Enqueued(task_id="d"))
    assert (type(c), type(e)) == (KeyReused, QueueFull)


def test_many_at_a_server_that_lost_its_scripts_are_accepted_once(link: LoopConnection, redis: Redis) -> None:
    accept(link, new_tasks("o"))
    redis.script_flush()
    assert accept(link, new_tasks("abc")) == [(Enqueued(task_id=name), False) for name in "abc"]
    assert redis.llen(keys.QUEUE) == 4


def test_many_beyond_the_memory_limit_are_each_refused(link: LoopConnection, memory_full: Callable[[], Any]) -> None:
    accept(link, new_tasks("o", idempotency=KEY))
    with memory_full():
        (a, _), (b, _) = accept(link, [*new_tasks("a"), *new_tasks("b", idempotency=KEY)])
    assert isinstance(a, OutOfMemoryError)
    assert b == Enqueued(task_id="o")


def test_many_are_sent_once_more_when_the_connection_breaks(open_loop: Open, proxy: Proxy, redis: Redis) -> None:
    """The replies are lost, and the tasks are not doubled."""
    link = open_loop(proxy.url)
    accept(link, new_tasks("o"))  # the connection is made
    proxy.cut = 1
    assert accept(link, new_tasks("abc")) == [(Enqueued(task_id=name), True) for name in "abc"]
    assert redis.llen(keys.QUEUE) == 4
    assert proxy.connections == 2


def test_a_connection_that_breaks_twice_is_an_error_and_the_next_command_opens_another(
    open_loop: Open, proxy: Proxy
) -> None:
    link = open_loop(proxy.url)
    assert call(link, "ECHO", "a") == "a"
    proxy.cut = 2
    with pytest.raises(RedisError):
        call(link, "ECHO", "b")
    assert call(link, "ECHO", "c") == "c"
    assert link.backlog == 0


@pytest.mark.parametrize("credentials", ["", ":wrong@", "nobody:wrong@"])
def test_a_refused_password_is_an_error_of_each_command(open_loop: Open, redis_url: str, credentials: str) -> None:
    parts = urlsplit(redis_url)
    link = open_loop(f"redis://{credentials}127.0.0.1:{parts.port}/0")
    for _ in range(2):
        replies = call_many(link, ("PING",), ("ECHO", "a"))
        assert [type(reply) for reply in replies] == [AuthenticationError] * 2


def test_the_database_and_the_name_of_the_client_are_those_of_the_address(open_loop: Open, redis_url: str) -> None:
    link = open_loop(f"{redis_url.removesuffix('/0')}/3?client_name=of-the-test")
    info = call(link, "CLIENT", "INFO")
    assert " db=3 " in info
    assert " name=of-the-test " in info


def test_a_silent_redis_is_an_error_and_the_next_command_tries_again(
    link: LoopConnection, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "TIMEOUT", 0.3)
    call(link, "PING")
    redis.client_pause(3000)
    replies = call_many(link, *[("ECHO", "a")] * 50)
    assert {type(reply) for reply in replies} == {TimedOut}
    # Redis is paused for other clients, too.
    until(lambda: echoes(link), what="Redis to answer")


def test_a_redis_that_is_silent_for_less_than_two_time_outs_is_no_error(
    link: LoopConnection, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "TIMEOUT", 1)
    call(link, "PING")
    redis.client_pause(1300)
    assert call(link, "ECHO", "a") == "a"


def test_a_loop_that_is_held_up_does_not_take_redis_for_silent(
    link: LoopConnection, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "TIMEOUT", 0.2)
    client_id = call(link, "CLIENT", "ID")

    async def held_up() -> Any:
        reply = link.call("CLIENT", "ID")
        await asyncio.sleep(0)
        time.sleep(0.5)
        return await reply

    assert LOOP.run(held_up()) == client_id


class Events:
    """Messages of channels, and replies, in the order in which they came."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.connects = 0

    def on_message(self, channel: str, text: str) -> None:
        self.seen.append(f"{channel}: {text}")

    def on_reply(self, reply: Any, is_repeated: bool) -> None:
        self.seen.append(f"reply: {reply}")

    def on_connect(self) -> None:
        self.connects += 1


def test_a_message_that_follows_from_a_command_arrives_behind_its_reply(open_loop: Open, redis_url: str) -> None:
    events = Events()
    link = open_loop(redis_url, channels=["a"], on_message=events.on_message)

    async def publish() -> None:
        for number in range(300):
            link.send(("SET", "key", number), events.on_reply)
            link.send(("PUBLISH", "a", number), events.on_reply)
        await link.call("PING")

    LOOP.run(publish())
    assert [seen for seen in events.seen if seen.startswith("a: ")] == [f"a: {number}" for number in range(300)]
    for number in range(300):
        place = events.seen.index(f"a: {number}")
        assert events.seen[:place].count("reply: OK") >= number + 1


def test_a_channel_is_listened_to_when_subscribe_returns_however_many_ask(
    open_loop: Open, redis: Redis, redis_url: str
) -> None:
    events = Events()
    link = open_loop(redis_url, on_message=events.on_message, on_connect=events.on_connect)

    async def subscribe() -> None:
        async def listen_and_tell(number: int) -> None:
            await link.subscribe("b")
            await publisher.call("PUBLISH", "b", number)

        await asyncio.gather(*(listen_and_tell(number) for number in range(20)))

    publisher = open_loop(redis_url)
    for _ in range(2):
        LOOP.run(subscribe())
        until(lambda: len(events.seen) == 20, what="all messages")
        LOOP.call(lambda: link.unsubscribe("b"))
        assert call(link, "PING") == "PONG"
        assert redis.pubsub_numsub("b") == [("b", 0)]
        events.seen.clear()
    assert events.connects == 1


def test_while_it_must_listen_a_broken_connection_is_opened_again(
    open_loop: Open, redis: Redis, redis_url: str
) -> None:
    events = Events()
    link = open_loop(
        redis_url, channels=["a"], on_message=events.on_message, on_connect=events.on_connect, must_listen=lambda: True
    )
    first = call(link, "CLIENT", "ID")
    redis.client_kill_filter(_id=first)
    until(lambda: events.connects == 2, what="another connection")
    redis.publish("a", "text")
    until(lambda: events.seen == ["a: text"], what="the message")
