"""Connection pools to Redis for threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis, ResponseError
from redis.backoff import ConstantBackoff
from redis.retry import Retry

#: Seconds after which Redis counts as away. Short, so that a client of the api gets its error soon.
TIMEOUT = 2.0


def connect(url: str) -> Redis:
    """A pool of connections to the Redis at `url`, safe to share between threads and to inherit over a fork.

    A command whose connection broke is sent once more on a new one: all commands but Claims.take can be repeated.
    """
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        socket_keepalive=True,
        # As many as there are threads: redis-py has a limit of 100 by default.
        max_connections=2**31,
        retry=Retry(ConstantBackoff(0.05), 1),
    )


class DirectConnection:
    """One connection for one thread, without a pool and without repeats: a third of the processor time of a client."""

    def __init__(self, redis: Redis) -> None:
        """It is made with the first command, to the same Redis."""
        self._connection: Any = redis.connection_pool.make_connection()

    def execute(self, *commands: Sequence[str | int | float]) -> list[Any]:
        """The replies to some commands, sent together. What Redis refuses has the error as its reply.

        Raises redis.RedisError when Redis is away; what it did by then is unknown.
        """
        try:
            self._connection.send_packed_command(self._connection.pack_commands(commands))
            return [self._reply() for _ in commands]
        except BaseException:
            # The next reply would be one to these.
            self._connection.disconnect()
            raise

    def close(self) -> None:
        """Close it; the next command makes another one."""
        self._connection.disconnect()

    def _reply(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return error
