"""Connection to Redis for one event loop: many commands in flight, and the messages of channels, on one socket.

Redis pushes messages between the replies to commands: what is published after a command was executed arrives behind
its reply. All commands of this project can be repeated: those without a reply are sent once more when the connection
breaks or times out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from hiredis import PushNotification
from redis import Redis, exceptions

from app.serving.store import connection
from app.serving.store.loop.resp import Socket, Word, pack, setup, subscription

log = logging.getLogger(__name__)

#: While `must_listen`: seconds of silence after which Redis is pinged, and seconds between two attempts to connect.
PING_INTERVAL = 10.0
RECONNECT_DELAY = 1.0

#: Seconds after which a refused connection is tried once more.
RETRY_DELAY = 0.05

#: Seconds that an overdue reply gets on top: when this process was held up, it may be there, and not read.
GRACE = 0.05

#: Gets the reply to a command, or a RedisError; and True when the command was sent twice.
Handler = Callable[[Any, bool], object]


class _Call:
    """A command on its way; its reply is for `handler`."""

    __slots__ = ("data", "handler", "is_repeated", "since")

    def __init__(self, data: bytes, handler: Handler, since: float) -> None:
        self.data, self.handler, self.since = data, handler, since
        self.is_repeated = False


class _Handshake(_Call):
    """Commands before a PING: whatever they reply is ignored, but an error ends the connection."""

    __slots__ = ()


class LoopConnection:
    """One connection, opened by the first command, and by the next one after it ended.

    Errors are redis.RedisError; a TimeoutError, when Redis is silent for `connection.TIMEOUT` seconds, fails whatever
    was sent before it.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        channels: Iterable[str] = (),
        on_message: Callable[[str, str], None] = lambda channel, text: None,
        on_connect: Callable[[], None] = lambda: None,
        must_listen: Callable[[], bool] = lambda: False,
    ) -> None:
        """Connect as `redis` does.

        `on_message` gets the messages of `channels`; `on_connect` is called when they are subscribed to, each time.
        While `must_listen`, a connection that ended is opened again even without a command.
        """
        self._options = redis.connection_pool.connection_kwargs
        self._channels = set(channels)
        self._subscribed: set[str] = set()
        self._setting_up: set[str] = set()
        self._on_message, self._on_connect, self._must_listen = on_message, on_connect, must_listen
        self._waiting: deque[_Call] = deque()
        self._in_flight: deque[_Call] = deque()
        self._socket: Socket | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reconnecting: asyncio.TimerHandle | None = None
        self._last_read = 0.0
        self._is_overdue = False

    @property
    def backlog(self) -> int:
        """The number of commands without a reply."""
        return len(self._waiting) + len(self._in_flight)

    def call(self, *command: Word) -> asyncio.Future[Any]:
        """Send a command; the future gets the reply."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.send(command, lambda reply, _: resolve(future, reply))
        return future

    def send(self, command: tuple[Word, ...], handler: Handler) -> None:
        """Send a command; `handler` is called before a message is handled that arrives after the reply."""
        self._send(_Call(pack(command), handler, asyncio.get_running_loop().time()))

    async def subscribe(self, channel: str) -> None:
        """Return when messages of this channel arrive, too."""
        if channel in self._subscribed:
            return
        self._channels.add(channel)
        if self._socket is None:
            await self.call("PING")
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._send(_Handshake(subscription([channel]), lambda reply, _: resolve(future, reply), loop.time()))
        await future
        self._subscribed |= {channel} & self._channels

    def unsubscribe(self, channel: str) -> None:
        """Stop the messages of this channel."""
        self._channels.discard(channel)
        self._subscribed.discard(channel)
        if self._socket is not None:
            self._socket.write(pack(("UNSUBSCRIBE", channel)))

    def close(self) -> None:
        """End the connection; commands without a reply fail."""
        self._must_listen = lambda: False
        if self._connecting is not None:
            self._connecting.cancel()
        self._fail(exceptions.ConnectionError("the connection is closed"))

    def _send(self, call: _Call) -> None:
        if self._socket is None:
            self._waiting.append(call)
            self._connect()
            return
        self._in_flight.append(call)
        self._socket.write(call.data)
        if self._timer is None:
            self._start_timer(connection.TIMEOUT)

    def _connect(self) -> None:
        if self._socket is None and self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(connection.TIMEOUT):
                try:
                    await self._open_socket()
                except ConnectionRefusedError:
                    await asyncio.sleep(RETRY_DELAY)
                    await self._open_socket()
        except TimeoutError:
            self._fail(exceptions.TimeoutError("Redis cannot be connected to in time"))
        except OSError as error:
            self._fail(exceptions.ConnectionError(f"Redis cannot be connected to: {error}"))
        except asyncio.CancelledError:
            self._fail(exceptions.ConnectionError("connecting to Redis was cancelled"))
            raise
        finally:
            self._connecting = None
            if self._waiting:  # it is closed again already
                self._connect()

    async def _open_socket(self) -> None:
        loop, options = asyncio.get_running_loop(), self._options
        if "path" in options:
            await loop.create_unix_connection(lambda: Socket(self), options["path"])
        else:
            await loop.create_connection(lambda: Socket(self), options["host"], options["port"])

    def _start_timer(self, delay: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay, self._check)

    def _check(self) -> None:
        """Find out whether Redis is silent: a reply is overdue, or there was nothing to read for long."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        if self._in_flight:
            left = max(self._last_read, self._in_flight[0].since) + connection.TIMEOUT - now
            if left <= 0 and self._is_overdue:
                self._time_out()
                return
            self._is_overdue = left <= 0
            self._start_timer(max(left, GRACE))
        elif self._socket is not None and self._must_listen():
            self._start_timer(min(PING_INTERVAL, connection.TIMEOUT))
            if now - self._last_read >= PING_INTERVAL:
                self.send(("PING",), lambda *_: None)

    def _time_out(self) -> None:
        error = exceptions.TimeoutError(f"Redis did not answer in {connection.TIMEOUT:g} s")
        if any(call.is_repeated for call in self._in_flight):
            self._fail(error)
        else:
            self._repeat(error)

    def _repeat(self, error: exceptions.RedisError) -> None:
        """Open another connection for the calls that were sent once; the others fail."""
        for call in self._drop_socket():
            if call.is_repeated:
                call.handler(error, True)
            else:
                call.is_repeated = True
                self._waiting.append(call)
        if self._waiting or self._must_listen():
            self._connect()

    def _fail(self, error: exceptions.RedisError) -> None:
        """Fail all calls, and let the next one open another connection."""
        calls = [*self._drop_socket(), *self._waiting]
        self._waiting.clear()
        for call in calls:
            call.handler(error, call.is_repeated)
        if self._must_listen() and self._reconnecting is None:
            log.warning("cannot listen for ended tasks, trying again: %s", error)
            self._reconnecting = asyncio.get_running_loop().call_later(RECONNECT_DELAY, self._reconnect)

    def _reconnect(self) -> None:
        self._reconnecting = None
        if self._must_listen():
            self._connect()

    def _drop_socket(self) -> list[_Call]:
        """The calls that were sent to the socket, which is closed."""
        calls = [call for call in self._in_flight if call.handler != self._on_setup]
        self._in_flight.clear()
        self._subscribed.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._socket.abort()
            self._socket = None
        return calls

    def _on_setup(self, reply: Any, is_repeated: bool) -> None:
        self._subscribed |= self._setting_up & self._channels
        self._on_connect()

    # Called by the socket.

    def opened(self, opened: Socket) -> None:
        """Set up the connection, and send what waits for it, in one go."""
        self._socket, self._is_overdue = opened, False
        now = self._last_read = asyncio.get_running_loop().time()
        self._setting_up = set(self._channels)
        self._send(_Handshake(setup(self._options) + subscription(self._channels), self._on_setup, now))
        while self._waiting:
            call = self._waiting.popleft()
            call.since = now
            self._send(call)

    def closed(self, closed: Socket) -> None:
        """Repeat what was sent, on another connection."""
        if closed is self._socket:
            self._repeat(exceptions.ConnectionError("Redis closed the connection"))

    def received(self, source: Socket, replies: list[Any]) -> None:
        """Hand out replies and messages."""
        self._last_read = asyncio.get_running_loop().time()
        self._is_overdue = False
        for reply in replies:
            if type(reply) is PushNotification:
                if reply[0] == "message":
                    self._on_message(reply[1], reply[2])
                continue
            if source is not self._socket or not self._in_flight:
                return
            call = self._in_flight[0]
            if type(call) is _Handshake:
                if isinstance(reply, exceptions.RedisError):
                    self._fail(reply)
                    return
                if reply != "PONG":
                    continue
            self._in_flight.popleft()
            call.handler(reply, call.is_repeated)


def resolve(future: asyncio.Future[Any], reply: Any) -> None:
    """Set a reply, or raise it where the future is awaited."""
    if future.done():  # it was cancelled
        return
    if isinstance(reply, Exception):
        future.set_exception(reply)
    else:
        future.set_result(reply)
