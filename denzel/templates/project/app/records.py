"""The record of each task in Redis: written when it is accepted, when it starts and when it ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from redis import Redis

from app import keys
from app.settings import ResponseMode

PENDING = "PENDING"
STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
ENDED = frozenset({SUCCESS, FAILURE, REVOKED})

# A repeated call, after a connection broke between the write and its answer, changes nothing.
_ACCEPT = """
local queue, task, response = KEYS[1], KEYS[2], KEYS[3]
local queue_limit, message, callback_uri = tonumber(ARGV[1]), ARGV[2], ARGV[3]
if redis.call('EXISTS', task) == 0 then
    if redis.call('LLEN', queue) >= queue_limit then
        return false
    end
    redis.call('HSET', task, 'status', 'PENDING')
    if callback_uri ~= '' then
        redis.call('HSET', task, 'callback_uri', callback_uri)
    end
    redis.call('LPUSH', queue, message)
end
return redis.call('HMGET', response, 'mode', 'timeout')
"""

_START = """
local status = redis.call('HGET', KEYS[1], 'status')
if not status or status == 'PENDING' or status == 'RETRY' then
    redis.call('HSET', KEYS[1], 'status', ARGV[1])
end
"""

# The first end of a task stands: a repeated run changes neither its result nor sends a second callback.
_END = """
local task, callbacks = KEYS[1], KEYS[2]
local task_id, status, result, lifetime, channel = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if redis.call('HEXISTS', task, 'result') == 1 then
    return 0
end
redis.call('HSET', task, 'status', status, 'result', result)
redis.call('EXPIRE', task, lifetime)
if redis.call('HEXISTS', task, 'callback_uri') == 1 then
    redis.call('LPUSH', callbacks, task_id)
end
redis.call('PUBLISH', channel, task_id)
return 1
"""


class QueueFull(Exception):
    """As many tasks wait as the deployment allows; nothing was stored."""


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """One task: a Celery state, its result once it has ended (JSON values), where its callback goes, if anywhere."""

    status: str
    result: Any = None
    callback_uri: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class TaskRecords:
    """The records in one Redis. Every method is one round trip, and raises redis.RedisError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._accept = redis.register_script(_ACCEPT)
        self._start = redis.register_script(_START)
        self._end = redis.register_script(_END)

    def accept(self, task_id: str, message: str, *, callback_uri: str | None, queue_limit: int) -> ResponseMode | None:
        """Record the task and put its message on the queue, in one step; raises QueueFull.

        Returns how the deployment answers now, when `denzel response` has changed it since the api started.
        """
        answer = self._accept(
            keys=[keys.QUEUE, keys.task(task_id), keys.RESPONSE],
            args=[queue_limit, message, callback_uri or ""],
        )
        if answer is None:
            raise QueueFull
        mode, timeout = answer
        return None if mode is None else ResponseMode(synchronous=mode == "sync", timeout=float(timeout))

    def start(self, task_id: str, status: str = STARTED) -> None:
        """Note that a worker has taken the task; an ended task stays ended."""
        self._start(keys=[keys.task(task_id)], args=[status])

    def end(self, task_id: str, status: str, result: Any, *, lifetime: int) -> None:
        """Store the result (JSON values) for `lifetime` seconds, announce it, and queue its callback if it has one."""
        self._end(
            keys=[keys.task(task_id), keys.CALLBACKS],
            args=[task_id, status, json.dumps(result), lifetime, keys.ENDED],
        )

    def find(self, task_id: str) -> TaskRecord | None:
        """The record of a task; None when the id was never accepted or its result has expired."""
        fields: dict[str, str] = self._redis.hgetall(keys.task(task_id))  # type: ignore[assignment]
        if "status" not in fields:
            return None
        return TaskRecord(
            status=fields["status"],
            result=json.loads(fields["result"]) if "result" in fields else None,
            callback_uri=fields.get("callback_uri"),
        )
