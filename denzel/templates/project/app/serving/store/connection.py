"""Connection pools to Redis for threads."""

from __future__ import annotations

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

#: Seconds after which Redis counts as away. Short, so that a client of the api gets its error soon.
TIMEOUT = 2.0


def connect(url: str) -> Redis:
    """A pool of connections to the Redis at `url`, safe to share between threads and to inherit over a fork.

    A command whose connection broke is sent once more on a new one: all commands of this project can be repeated.
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
