"""Who has which task: taking messages from the queue, keeping them, and giving them back.

A message is taken in one step: off the queue, and into Kombu's hash of unacknowledged messages, with the name of the
worker that has it. The worker renews its claims while it lives, so a claim that is not renewed is a dead worker's,
however long its task runs; it goes back to the queue. A claim ends in the step that ends its task (store/tasks.py).
"""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import NoScriptError

from app.serving.store import claim_steps, keys, scripts
from app.serving.store.messages import QueuedTask, parse
from app.serving.store.record_steps import END

#: Seconds after which a claim that is not renewed is a dead worker's; and seconds between two renewals.
LEASE = 20.0
RENEW_EVERY = 2.0

# Seconds that a claim may be unknown to its own worker: between the answer of Redis and Celery's note of it.
_UNKNOWN_FOR = 10.0


@dataclass(frozen=True, kw_only=True)
class ClaimLimits:
    """When a task that kills its worker is given up: after so many deliveries; its record is kept so many seconds."""

    deliveries: int
    lifetime: int


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A message that was taken, its delivery tag, how often it was by now, and since when it had waited (seconds since
    1970).
    """

    message: str
    tag: str
    deliveries: int
    since: float


class Taken(NamedTuple):
    """What taking has brought: messages; and tasks that were cancelled while they waited, whose turn it was."""

    claimed: list[Claimed]
    cancelled: list[QueuedTask]


class DeadLettered(NamedTuple):
    """A task that was ended as FAILURE because it killed its process too often, and what its result says of that."""

    task_id: str
    reason: str


class Renewed(NamedTuple):
    """What a worker hears when it renews its claims: which of its tasks were cancelled; which, of anybody's, were given
    up.
    """

    cancelled: list[str]
    given_up: list[DeadLettered]


class Claims:
    """One worker's claims. Every method is one round trip, or a few after Redis was started anew, and raises
    redis.RedisError when Redis is away.
    """

    def __init__(self, redis: Redis, limits: ClaimLimits, *, host: str | None = None, timeout: float = LEASE) -> None:
        """Two lives of a worker on the same `host` are told apart: what the earlier one had is given back at once."""
        host = host or socket.gethostname()
        self._count_key = keys.taken(host)
        self._host = f"{host}/"
        self.owner = self._host + uuid.uuid4().hex
        self._note = keys.note(self.owner)
        self._timeout = timeout
        self._limits = [limits.deliveries, limits.lifetime]
        self._redis = redis
        functions = (END, claim_steps.MESSAGES, claim_steps.QUARANTINE, claim_steps.GIVE_BACK)
        taking = (claim_steps.NOTE, claim_steps.MESSAGES, claim_steps.QUARANTINE)
        self._take = scripts.register(redis, claim_steps.TAKE, *taking)
        self._read_note = scripts.register(redis, claim_steps.READ_NOTE, claim_steps.MESSAGES)
        self._renew = scripts.register(redis, claim_steps.RENEW, claim_steps.NOTE, *functions)
        self._give_back = scripts.register(redis, claim_steps.GIVE_BACK_SOME, *functions)
        self._give_all_back = scripts.register(redis, claim_steps.GIVE_ALL_BACK, *functions)
        self._release = scripts.register(redis, claim_steps.RELEASE, END)

    def take(self, *, free: int, most: int, sharing: int = 0) -> Taken:
        """The next messages of the queue for `free` processes, each of which can run `most` tasks in one go.

        None gets more than its part of what waits, if so many are `sharing` that. Cancelled ones are dropped.
        """
        return _read_taken(self._take(keys=[self._note], args=self._taking(free=free, most=most, sharing=sharing)))

    def take_staying(self, visit: int, number: int, *, most: int, wait: float = 0) -> Taken:
        """The next messages for one process, which stays at the queue, `most` at most and none that must be alone.

        Where there are none it waits for so many seconds. They are noted, as the round of that number of this visit.
        """
        arguments = self._taking(free=0, most=most, visit=visit, number=number)
        if not wait:
            return _read_taken(self._take(keys=[self._note], args=arguments))
        with self._redis.pipeline(transaction=False) as pipe:
            # From the end of the list to the same end: the list stays as it is.
            pipe.blmove(keys.QUEUE, keys.QUEUE, wait, "RIGHT", "RIGHT")  # type: ignore[arg-type]
            pipe.evalsha(self._take.sha, 1, self._note, *arguments)
            # At its memory limit, Redis refuses to wait, and not to take.
            _, reply = pipe.execute(raise_on_error=False)
        if isinstance(reply, NoScriptError):
            return self.take_staying(visit, number, most=most)
        if isinstance(reply, Exception):
            raise reply
        return _read_taken(reply)

    def _taking(
        self, *, free: int, most: int, sharing: int = 0, visit: int | str = "", number: int | str = ""
    ) -> list[str | int]:
        return [self.owner, self._count_key, free, most, sharing, visit, number]

    def noted(self, visit: int) -> tuple[int, list[QueuedTask]]:
        """The round of this visit that was noted last, and its tasks; 0 and none when there is none.

        Of one that has ended, the id alone is known. None is there that is not for a parcel.
        """
        number, told = self._read_note(keys=[self._note], args=[visit])
        items = [
            parse(message, float(since)) if message else QueuedTask(task_id, "", "", float(since))
            for task_id, message, since in told
        ]
        return number, [item for item in items if item is not None]

    def renew(self, known: dict[str, str], visit: int = 0) -> Renewed:
        """Keep the claims on messages that this worker knows of, by delivery tag with their tasks' ids, and on those
        that its process at the queue has noted, if one is on this visit.

        What no living worker has goes back to the queue.
        """
        cancelled, given_up = self._renew(
            keys=[self._note],
            args=[self.owner, self._host, json.dumps(known), self._timeout, _UNKNOWN_FOR, *self._limits, visit],
        )
        return Renewed(cancelled, _given_up(given_up))

    def give_back(self, tags: Mapping[str, bool]) -> list[DeadLettered]:
        """Put messages to the head of the queue in their order; or end the task of one when a process died of it, which
        its value says, for the last time. Returns those.
        """
        told = [text for tag, died in tags.items() for text in (tag, "died" if died else "")]
        return _given_up(self._give_back(args=[self.owner, *self._limits, *told]))

    def give_all_back(self) -> None:
        """Put all that this worker has to the head of the queue: it stops."""
        self._give_all_back(args=[self.owner, *self._limits])

    def release(self, tag: str) -> None:
        """Let go of a message whose task has ended."""
        self._release(args=[self.owner, tag])


def _read_taken(reply: Any) -> Taken:
    taken, cancelled = reply
    return Taken(
        [Claimed(message=text, tag=tag, deliveries=often, since=float(since)) for text, tag, often, since in taken],
        [item for message, since in cancelled if (item := parse(message, float(since)))],
    )


def _given_up(told: list[str]) -> list[DeadLettered]:
    return [DeadLettered(task_id, reason) for task_id, reason in zip(told[::2], told[1::2], strict=True)]
