"""Claims of workers on messages: claimed from the queue, renewed under a lease, acknowledged or requeued.

A message is claimed in one step: off the queue, and into Kombu's hash of unacknowledged messages (`unacked` and
`unacked_index` of kombu/transport/redis.py, 5.7.0), with the name of its owner. A worker renews its claims while it
lives, so a claim that is not renewed is a dead worker's, however long its task runs, and is requeued. The step that
completes a task (tasks.py) releases its claim.
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

from app.serving.store import keys, scripts
from app.serving.store.messages import QueuedTask, parse

#: Seconds after which a claim that is not renewed is a dead worker's, and seconds between renewals.
CLAIM_LEASE = 20.0
CLAIM_RENEW_INTERVAL = 2.0

# Seconds that a claim may be unknown to its own worker: between the answer of Redis and Celery's note of it.
_UNKNOWN_FOR = 10.0

# Seconds for which the note of a polling process is kept, unless its worker renews it.
_NOTE_TTL = 3600


@dataclass(frozen=True, kw_only=True)
class ClaimLimits:
    """Deliveries after which a task that kills its worker is a dead letter, and the seconds to keep its record."""

    deliveries: int
    ttl: int


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A claimed message, its delivery tag, how often it was delivered by now, and since when it waited (seconds since
    1970).
    """

    message: str
    tag: str
    deliveries: int
    since: float


class Taken(NamedTuple):
    """The claimed messages, and the tasks at their turn that were cancelled while they waited."""

    claimed: list[Claimed]
    cancelled: list[QueuedTask]


class DeadLettered(NamedTuple):
    """A task that was ended as FAILURE because it killed its process too often, and the reason in its result."""

    task_id: str
    reason: str


class Renewed(NamedTuple):
    """The answer to a renewal: the worker's tasks that were cancelled, and any worker's that became dead letters."""

    cancelled: list[str]
    dead_lettered: list[DeadLettered]


class Claims:
    """One worker's claims. Every method is one round trip, or a few after Redis was restarted, and raises
    redis.RedisError when Redis is away.
    """

    def __init__(
        self, redis: Redis, limits: ClaimLimits, *, host: str | None = None, lease: float = CLAIM_LEASE
    ) -> None:
        """Each start of a worker on a `host` makes a new owner; claims of an earlier one are requeued at once."""
        host = host or socket.gethostname()
        self._count_key = keys.taken(host)
        self._host = f"{host}/"
        self.owner = self._host + uuid.uuid4().hex
        self._note = keys.note(self.owner)
        self._lease = lease
        self._limits = [limits.deliveries, limits.ttl]
        self._redis = redis
        self._take, self._read_note, self._renew, self._requeue, self._requeue_all, self._ack = (
            scripts.register(redis, f"claims/{name}")
            for name in ("take", "read_note", "renew", "requeue", "requeue_all", "ack")
        )

    def take(self, *, free: int, limit: int, sharers: int = 0) -> Taken:
        """Claim the next messages for `free` processes, each of which can run a batch of `limit` tasks.

        With `sharers`, no batch has more than the queue split among so many processes. Cancelled tasks are dropped.
        """
        return _read_taken(self._take(keys=[self._note], args=self._taking(free=free, limit=limit, sharers=sharers)))

    def poll(self, session_id: int, number: int, *, limit: int, wait: float = 0) -> Taken:
        """Claim the next messages for one process that polls the queue, `limit` at most and none that must be isolated.

        Waits up to `wait` seconds for one. The tasks are noted, as round `number` of this poll session.
        """
        arguments = self._taking(free=0, limit=limit, session_id=session_id, number=number)
        if not wait:
            return _read_taken(self._take(keys=[self._note], args=arguments))
        with self._redis.pipeline(transaction=False) as pipe:
            # From the end of the list to the same end: the list stays as it is.
            pipe.blmove(keys.QUEUE, keys.QUEUE, wait, "RIGHT", "RIGHT")  # type: ignore[arg-type]
            pipe.evalsha(self._take.sha, 1, self._note, *arguments)
            # At its memory limit, Redis refuses BLMOVE, and not the script.
            _, reply = pipe.execute(raise_on_error=False)
        if isinstance(reply, NoScriptError):
            return self.poll(session_id, number, limit=limit)
        if isinstance(reply, Exception):
            raise reply
        return _read_taken(reply)

    def _taking(
        self, *, free: int, limit: int, sharers: int = 0, session_id: int | str = "", number: int | str = ""
    ) -> list[str | int]:
        return [self.owner, self._count_key, free, limit, sharers, session_id, number, _NOTE_TTL]

    def session_tasks(self, session_id: int) -> tuple[int, list[QueuedTask]]:
        """The last round of this poll session that was noted, and its tasks; 0 and none when there is none.

        Of one that has ended, the id alone is known. None of them must be isolated.
        """
        number, noted = self._read_note(keys=[self._note], args=[session_id])
        tasks = [
            parse(message, float(since)) if message else QueuedTask(task_id, "", "", float(since))
            for task_id, message, since in noted
        ]
        return number, [task for task in tasks if task is not None]

    def renew(self, known: dict[str, str], session_id: int = 0) -> Renewed:
        """Renew the claims in `known`, task ids by delivery tag, and those noted in this poll session, if there is one.

        Whatever no living worker has is requeued.
        """
        cancelled, dead_lettered = self._renew(
            keys=[self._note],
            args=[
                *(self.owner, self._host, json.dumps(known), self._lease, _UNKNOWN_FOR),
                *(*self._limits, session_id, _NOTE_TTL),
            ],
        )
        return Renewed(cancelled, _dead_lettered(dead_lettered))

    def requeue(self, tags: Mapping[str, bool]) -> list[DeadLettered]:
        """Put messages back at the head of the queue, in their order; True for one whose process died while it ran it.

        At its last delivery, that ends the task. Returns those that were ended.
        """
        flat = [text for tag, died in tags.items() for text in (tag, "died" if died else "")]
        return _dead_lettered(self._requeue(args=[self.owner, *self._limits, *flat]))

    def requeue_all(self) -> None:
        """Put all that this worker has back at the head of the queue, as it stops."""
        self._requeue_all(args=[self.owner, *self._limits])

    def ack(self, tag: str) -> None:
        """Acknowledge a message whose task has ended."""
        self._ack(args=[self.owner, tag])


def _read_taken(reply: Any) -> Taken:
    taken, cancelled = reply
    return Taken(
        [
            Claimed(message=text, tag=tag, deliveries=deliveries, since=float(since))
            for text, tag, deliveries, since in taken
        ],
        [task for message, since in cancelled if (task := parse(message, float(since)))],
    )


def _dead_lettered(flat: list[str]) -> list[DeadLettered]:
    return [DeadLettered(task_id, reason) for task_id, reason in zip(flat[::2], flat[1::2], strict=True)]
