"""Claims of predicting processes on messages: taken under the lease of an owner, then completed or requeued.

A message is claimed in one step: off the queue, and into Kombu's hash of unacknowledged messages (`unacked` of
kombu/transport/redis.py, 5.7.0), with the name of its owner, one predicting process. The worker renews the leases of
its living processes, however long their tasks run. What the others have claimed is requeued. The step that completes a
task releases its claim.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import NoScriptError

from app.serving.store import keys, scripts
from app.serving.store.connection import DirectConnection
from app.serving.store.messages import ForeignMessage, QueuedTask, parse
from app.serving.store.tasks import Completion

#: Seconds after which an owner that does not renew is dead, and seconds between renewals.
CLAIM_LEASE = 20.0
CLAIM_RENEW_INTERVAL = 2.0

# Seconds between two looks at the queue when Redis is at its memory limit, and refuses to be waited at.
_MEMORY_FULL_PAUSE = 0.1


@dataclass(frozen=True, kw_only=True)
class ClaimLimits:
    """Deliveries after which a task that kills its process is a dead letter, and the seconds to keep its record."""

    deliveries: int
    ttl: int


class Claimed(NamedTuple):
    """A claimed message, the id of its task, how often it was delivered by now, and since when it waited (seconds since
    1970).
    """

    task_id: str
    message: str
    deliveries: int
    since: float


class Taken(NamedTuple):
    """The claimed messages, the tasks at their turn that were cancelled while they waited, and how many wait still."""

    claimed: list[Claimed]
    cancelled: list[QueuedTask]
    waiting: int


class DeadLettered(NamedTuple):
    """A task that was ended as FAILURE because it killed its process too often, and the reason in its result."""

    task_id: str
    reason: str


class Renewed(NamedTuple):
    """The answer to a renewal: the running tasks that were cancelled, and any worker's that became dead letters."""

    cancelled: list[str]
    dead_lettered: list[DeadLettered]


def new_owner(host: str | None = None) -> str:
    """The name of a new owner on this `host`."""
    return f"{host or socket.gethostname()}/{uuid.uuid4().hex}"


class Claims:
    """One owner's claims. Every method is one round trip, or a few after Redis was restarted, and raises
    redis.RedisError when Redis is away.
    """

    def __init__(self, redis: Redis, limits: ClaimLimits, owner: str, epoch: int = 0) -> None:
        self.owner = owner
        #: Counted up with each answer to `take` that was lost, and after each batch that was cut off.
        self.epoch = epoch
        self._limits = [limits.deliveries, limits.ttl]
        self._ttl = limits.ttl
        self._connection = DirectConnection(redis)
        self._take, self._requeue, self._requeue_all, self._reject = (
            scripts.register(redis, f"claims/{name}") for name in ("take", "requeue", "requeue_all", "reject")
        )

    @property
    def holder(self) -> str:
        """The owner in its epoch, with which its claims are marked."""
        return f"{self.owner}.{self.epoch}"

    def take(self, *, limit: int, sharers: int = 0, wait: float = 0, completions: Sequence[Completion] = ()) -> Taken:
        """Store how tasks ended, as TaskStore.complete_many does, and claim the next: up to `limit`, or a single one
        that was delivered before. Waits up to `wait` seconds for the first, unless there are completions.

        With `sharers`, claims no more than the queue split among so many processes. When the answer is lost, begin
        a new epoch before the next call: what was claimed would stay so.
        """
        arguments: list[str | int] = [
            self.holder,
            limit,
            sharers,
            self._ttl,
            *(text for one in completions for text in one),
        ]
        commands: list[list[str | int | float]] = [["EVALSHA", str(self._take.sha), 0, *arguments]]
        if wait and not completions:
            # From the end of the list to the same end: the list stays as it is.
            commands.insert(0, ["BLMOVE", keys.QUEUE, keys.QUEUE, "RIGHT", "RIGHT", wait])
        *waited, reply = self._connection.execute(*commands)
        if isinstance(reply, NoScriptError):
            self._connection.execute(["SCRIPT", "LOAD", str(self._take.script)])
            (reply,) = self._connection.execute(commands[-1])
        if isinstance(reply, Exception):
            raise reply
        taken = _read_taken(reply)
        # At its memory limit, Redis refuses BLMOVE, and not the script.
        if waited and isinstance(waited[0], Exception) and not taken.claimed:
            time.sleep(min(wait, _MEMORY_FULL_PAUSE))
        return taken

    def close(self) -> None:
        """Close the connection of `take`."""
        self._connection.close()

    def requeue(self, task_ids: Collection[str]) -> list[DeadLettered]:
        """Put tasks that were claimed in this epoch back at the head of the queue, in their order. No delivery is
        counted; returns those that were ended, as fewer are allowed by now.
        """
        return _dead_lettered(self._requeue(args=[self.holder, *self._limits, *task_ids]))

    def requeue_all(self, died: Collection[str] = ()) -> list[DeadLettered]:
        """The same for all that this owner has, of any epoch. Its process may have `died` of the tasks with these ids:
        a last delivery ends a task.
        """
        return _dead_lettered(self._requeue_all(args=[self.owner, *self._limits, *died]))

    def reject(self, task_id: str, reason: str) -> None:
        """End a claimed message as a dead letter, and its task as FAILURE, for this reason."""
        self._reject(args=[self.owner, task_id, reason, self._ttl])


class HostClaims:
    """The claims of all owners on one host."""

    def __init__(self, redis: Redis, limits: ClaimLimits, *, host: str | None = None) -> None:
        self._prefix = f"{host or socket.gethostname()}/"
        self._limits = [limits.deliveries, limits.ttl]
        self._renew = scripts.register(redis, "claims/renew")

    def renew(self, living: Mapping[str, int], running: Collection[str] = ()) -> Renewed:
        """Renew the leases of the `living` owners of this host, given their epochs. Requeue what its others have, what
        these claimed in earlier epochs, and what no living owner of any host has.

        Returns which of the tasks that are `running` were cancelled.

        Raises redis.RedisError when Redis is away.
        """
        arguments: list[str | float] = [self._prefix, CLAIM_LEASE, *self._limits, json.dumps(living), *running]
        cancelled, dead_lettered = self._renew(args=arguments)
        return Renewed(cancelled, _dead_lettered(dead_lettered))


def _read_taken(reply: Any) -> Taken:
    taken, cancelled, waiting = reply
    return Taken(
        [Claimed(task_id, text, count, float(since)) for task_id, text, count, since in taken],
        [task for message, since in cancelled for task in _parsed(message, float(since))],
        waiting,
    )


def _parsed(message: str, since: float) -> list[QueuedTask]:
    with suppress(ForeignMessage):
        return [parse(message, since)]
    return []


def _dead_lettered(flat: list[str]) -> list[DeadLettered]:
    return [DeadLettered(task_id, reason) for task_id, reason in zip(flat[::2], flat[1::2], strict=True)]
