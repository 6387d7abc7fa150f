"""Dead letters: tasks that killed their process too often, kept with their input for inspection and replay."""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from app.serving.store import keys, scripts


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """One such task: how often it was delivered, and when its process last died, in seconds since 1970."""

    task_id: str
    deliveries: int
    since: float
    reason: str


class DeadLetters:
    """The dead letters in one Redis. Every method raises redis.RedisError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._replay = scripts.register(redis, "dead_letters/replay")

    def read(self) -> list[DeadLetter]:
        """All of them, the oldest first."""
        entries: list[tuple[str, float]] = self._redis.zrange(keys.DEAD_LETTERS, 0, -1, withscores=True)  # type: ignore[assignment]
        with self._redis.pipeline(transaction=False) as pipe:
            for task_id, _ in entries:
                pipe.hmget(keys.dead_letter(task_id), ["deliveries", "reason"])
            letters = pipe.execute()
        return [
            DeadLetter(task_id=task_id, deliveries=int(deliveries), since=since, reason=reason)
            for (task_id, since), (deliveries, reason) in zip(entries, letters, strict=True)
            if reason
        ]

    def replay(self, task_id: str) -> bool:
        """Put the task on the queue again, under its own id as if it were new; False when there is no such letter."""
        return bool(self._replay(args=[task_id]))

    def discard(self, task_id: str) -> bool:
        """Delete the letter and keep the task's record; False when there is no such letter."""
        with self._redis.pipeline() as pipe:
            pipe.delete(keys.dead_letter(task_id))
            pipe.zrem(keys.DEAD_LETTERS, task_id)
            _, removed = pipe.execute()
        return bool(removed)
