"""Tasks that killed their process too often: kept aside with their input, to be looked at and run again."""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from app.serving.store import keys, scripts
from app.serving.store.outbox_steps import FORGET, LIFETIME

# Under the same id, so that whoever waits for the task finds its result; `replays` tells its callbacks apart.
_REPLAY = """
local task_id = ARGV[1]
local task, kept = TASK .. task_id, QUARANTINED .. task_id
local fields = redis.call('HMGET', kept, 'message', 'callback_uri', 'receiver', 'replays')
if not fields[1] or redis.call('HGET', kept, 'deliveries') == '0' then
    return false
end
forget_callback(task_id)
local idempotency = redis.call('HGET', task, 'idempotency')
redis.call('DEL', task, kept)
redis.call('ZREM', QUARANTINE, task_id)
local place = redis.call('INCR', ACCEPTED)
redis.call('HSET', task, 'status', 'PENDING', 'place', place, 'since', now(), 'replays', (fields[4] or 0) + 1)
if fields[2] then
    redis.call('HSET', task, 'callback_uri', fields[2], 'receiver', fields[3])
end
if idempotency then
    redis.call('HSET', task, 'idempotency', idempotency)
    keep_task(task_id)
end
redis.call('ZADD', WAITING, place, task_id)
redis.call('LPUSH', QUEUE, fields[1])
return true
"""


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """One of them: how often it was delivered, and when its process last died, in seconds since 1970."""

    task_id: str
    deliveries: int
    since: float
    reason: str


class DeadLetters:
    """Those in one Redis. Every method raises redis.RedisError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._replay = scripts.register(redis, _REPLAY, FORGET, LIFETIME)

    def read(self) -> list[DeadLetter]:
        """All of them, the oldest first."""
        entries: list[tuple[str, float]] = self._redis.zrange(keys.QUARANTINE, 0, -1, withscores=True)  # type: ignore[assignment]
        with self._redis.pipeline(transaction=False) as pipe:
            for task_id, _ in entries:
                pipe.hmget(keys.quarantined(task_id), ["deliveries", "reason"])
            kept = pipe.execute()
        return [
            DeadLetter(task_id=task_id, deliveries=int(deliveries), since=since, reason=reason)
            for (task_id, since), (deliveries, reason) in zip(entries, kept, strict=True)
            if reason
        ]

    def replay(self, task_id: str) -> bool:
        """Put the task on the queue again, under its own id and as if it were new; False when no task is kept so."""
        return bool(self._replay(args=[task_id]))

    def discard(self, task_id: str) -> bool:
        """Forget what is kept, but for the task's record; False when nothing is."""
        with self._redis.pipeline() as pipe:
            pipe.delete(keys.quarantined(task_id))
            pipe.zrem(keys.QUARANTINE, task_id)
            _, removed = pipe.execute()
        return bool(removed)
