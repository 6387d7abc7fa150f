"""Records of tasks in Redis: written when a task is accepted, when it starts and when it ends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis import Redis

from app.serving.callback_uri import endpoint_of
from app.serving.settings import ResponseMode
from app.serving.store import keys, scripts
from app.serving.store.times import Times, read_clock, read_times

PENDING = "PENDING"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
TERMINAL_STATES = frozenset({SUCCESS, FAILURE, REVOKED})


class QueueFull(Exception):
    """As many tasks wait as the deployment allows; nothing was stored."""


class KeyReused(Exception):
    """Another body was accepted with the same Idempotency-Key; nothing was stored."""


@dataclass(frozen=True, kw_only=True)
class CallbackReport:
    """State of a task's callback: PENDING, DELIVERED or FAILED, after so many attempts."""

    state: str
    attempts: int = 0
    last_error: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """One task: a Celery state, its result once it has ended (JSON values), where its callback goes, if anywhere.

    `text` is the result as it is stored, in JSON. `position` is its place in the queue while it waits: 1 for the next;
    `eta` the seconds until it will probably have ended. `progress` is what it has reported, in JSON.
    """

    status: str
    result: Any = None
    text: str | None = field(default=None, compare=False, repr=False)
    position: int | None = None
    eta: float | None = None
    progress: str | None = None
    times: Times = field(default=Times(), compare=False)
    callback_uri: str | None = None
    callback: CallbackReport | None = None

    @property
    def is_finished(self) -> bool:
        return self.status in TERMINAL_STATES


class Completion(NamedTuple):
    """The end of a task: its status, and its result as JSON."""

    task_id: str
    status: str
    result: str


@dataclass(frozen=True, kw_only=True)
class UnfinishedTask:
    """A task that has not ended: on which host it runs, or its place in the queue, since when (seconds since 1970)."""

    task_id: str
    status: str
    position: int | None
    deliveries: int
    host: str | None
    since: float | None


class UnfinishedPage(NamedTuple):
    """Some of the tasks that have not ended, and how many of these are claimed by workers, and how many wait."""

    tasks: list[UnfinishedTask]
    claimed: int
    waiting: int


@dataclass(frozen=True, kw_only=True)
class Idempotency:
    """An `Idempotency-Key` and the body that came with it, both as digests."""

    key: str
    body: str


class NewTask(NamedTuple):
    """A task to be accepted: its message for the queue; `prefer` is 'wait', 'respond-async' or nothing."""

    task_id: str
    message: str
    callback_uri: str | None = None
    idempotency: Idempotency | None = None
    prefer: str = ""


class Enqueued(NamedTuple):
    """The id of the task, which is an earlier one's when that came with the same key and body; and the
    deployment's response mode, when `denzel response` has changed it since the api started.
    """

    task_id: str
    response: ResponseMode | None = None


class TaskStore:
    """The records in one Redis. Every method is one round trip, and raises redis.RedisError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._accept = scripts.register(redis, "tasks/accept")
        self._complete = scripts.register(redis, "tasks/complete")
        self._cancel = scripts.register(redis, "tasks/cancel")

    def enqueue(
        self,
        task_id: str,
        message: str,
        *,
        callback_uri: str | None,
        queue_limit: int,
        idempotency: Idempotency | None = None,
    ) -> tuple[str, ResponseMode | None]:
        """Record one task and put its message on the queue, in one step; raises QueueFull and KeyReused.

        Returns the fields of an Enqueued.
        """
        task = NewTask(task_id=task_id, message=message, callback_uri=callback_uri, idempotency=idempotency)
        outcome = read_accepted(self._accept(args=accept_arguments(task, queue_limit=queue_limit)))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome.task_id, outcome.response

    def complete(self, task_id: str, status: str, result: Any, *, ttl: int) -> None:
        """Store how one task ended, as `complete_many` does; its result is JSON values."""
        self.complete_many([Completion(task_id, status, json.dumps(result))], ttl=ttl)

    def complete_many(self, completions: Iterable[Completion], *, ttl: int) -> None:
        """Store each result for `ttl` seconds, announce it, schedule its callback if it has one, and release the claim
        on its message.
        """
        self._complete(args=[ttl, *(text for completion in completions for text in completion)])

    def cancel(self, task_id: str, *, ttl: int) -> str | None:
        """End the task as REVOKED, unless it has ended. Returns its status then; None when there is no such task."""
        status: str | None = self._cancel(args=cancel_arguments(task_id, ttl))
        return status

    def find(self, task_id: str) -> TaskRecord | None:
        """The record of a task; None when the id was never accepted or its result has expired."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.task(task_id))
            pipe.zrank(keys.WAITING, task_id)
            pipe.time()
            fields, rank, clock = pipe.execute()
        return read_record(fields, rank, read_clock(clock))

    def unfinished(self, *, offset: int = 0, limit: int) -> UnfinishedPage:
        """A page of the tasks that have not ended, `limit` at most: those claimed by workers, by their ids, then those
        that wait, in their order.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.OWNERS)
            pipe.zcard(keys.WAITING)
            owners, all_waiting = pipe.execute()
        claimed = sorted(owners)
        shown = claimed[offset : offset + limit]
        first, left = max(0, offset - len(claimed)), limit - len(shown)
        waiting = self._redis.zrange(keys.WAITING, first, first + left - 1) if left else []
        page = [*shown, *waiting]
        positions = {task_id: position for position, task_id in enumerate(waiting, start=first + 1)}
        with self._redis.pipeline(transaction=False) as pipe:
            for task_id in page:
                pipe.hmget(keys.task(task_id), ["status", "deliveries", "since"])
            fields = pipe.execute()
        tasks = [
            UnfinishedTask(
                task_id=task_id,
                status=status or PENDING,
                position=positions.get(task_id),
                deliveries=int(deliveries or 0),
                host=owners[task_id].partition("/")[0] if task_id in owners else None,
                since=float(since) if since else None,
            )
            for task_id, (status, deliveries, since) in zip(page, fields, strict=True)
        ]
        return UnfinishedPage(tasks, len(claimed), all_waiting)


def accept_arguments(
    task: NewTask, *, queue_limit: int, synchronous: bool = False, channel: str = ""
) -> list[str | int]:
    """The arguments of the script tasks/accept; `channel` is where the end is announced if the request waits for it."""
    uri, idempotency = task.callback_uri, task.idempotency
    return [
        *(task.task_id, task.message, uri or "", endpoint_of(uri) if uri else "", queue_limit),
        *((keys.idempotency(idempotency.key), idempotency.body) if idempotency else ("", "")),
        *(task.prefer, "sync" if synchronous else "async", channel),
    ]


def read_accepted(reply: list[Any]) -> Enqueued | QueueFull | KeyReused:
    """The answer of the script tasks/accept."""
    outcome, *accepted = reply
    if outcome == "FULL":
        return QueueFull()
    if outcome == "OTHER BODY":
        return KeyReused()
    task_id, mode, timeout = accepted
    changed = None if mode is None else ResponseMode(synchronous=mode == "sync", timeout=float(timeout))
    return Enqueued(task_id=task_id, response=changed)


def cancel_arguments(task_id: str, ttl: int) -> list[str | int]:
    """The arguments of the script tasks/cancel."""
    return [task_id, json.dumps({"args": ["cancelled"]}), ttl]


def read_record(
    fields: dict[str, str], rank: int | None, now: float | None = None, *, parse: bool = True
) -> TaskRecord | None:
    """The record with these fields in Redis, of a task at this rank among those that wait; None when there is none.

    Without `parse`, the result is there as `text` alone.
    """
    if "status" not in fields:
        return None
    return TaskRecord(
        status=fields["status"],
        result=json.loads(fields["result"]) if parse and "result" in fields else None,
        text=fields.get("result"),
        position=rank + 1 if rank is not None and fields["status"] == PENDING else None,
        progress=fields.get("progress"),
        times=read_times(fields, now),
        callback_uri=fields.get("callback_uri"),
        callback=_callback(fields),
    )


def _callback(fields: dict[str, str]) -> CallbackReport | None:
    if "callback_uri" not in fields:
        return None
    return CallbackReport(
        state=fields.get("callback", "PENDING"),
        attempts=int(fields.get("callback_attempts", 0)),
        last_error=fields.get("callback_error"),
    )
