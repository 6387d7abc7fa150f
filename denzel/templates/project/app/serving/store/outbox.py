"""Outbox of callbacks in Redis: leased to senders, retried, and kept until their endpoint has them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from app.serving.store import keys, scripts

#: Seconds for which a callback is leased to a sender, unless the sender renews it. After that it is due again.
CALLBACK_LEASE = 15

#: Callbacks leased, or scanned, in one script: Redis does nothing else meanwhile.
MAX_TAKEN = 64
MAX_SCANNED = 1000

#: Bytes of results leased in one script; the last one may exceed it, so that a result of any size is leased.
MAX_TAKEN_BYTES = 16 * 1024 * 1024

#: Failures of one callback that may count for its endpoint while others get through there. After that, the fault is
#: taken to be this callback's.
LONE_FAILURES = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Callback:
    """A callback to send now: its endpoint (host:port), and its task, whose `result` is JSON text.

    `attempts` have failed before, the first of them `since_first` seconds ago. A task that was replayed ends once more,
    as another event.
    """

    task_id: str
    endpoint: str
    uri: str
    status: str
    result: str
    attempts: int = 0
    since_first: float = 0
    replays: int = 0

    @property
    def webhook_id(self) -> str:
        """The header of Standard Webhooks: the same at every attempt, so that the receiver can drop a repeat."""
        return f"{self.task_id}.{self.replays}" if self.replays else self.task_id


@dataclass(frozen=True, kw_only=True)
class AttemptResult:
    """The end of one delivery attempt: delivered, or an error and the seconds until the next attempt, None for never.

    `endpoint_down`: the error is the endpoint's, so that its next success brings this callback forward.
    """

    status: int | None = None
    error: str = ""
    delivered: bool = False
    retry_in: float | None = None
    endpoint_down: bool = False


@dataclass(frozen=True, kw_only=True)
class UndeliveredCallback:
    """A callback that was not delivered: PENDING, or FAILED for good. `next_try` is in seconds since 1970."""

    task_id: str
    uri: str
    state: str
    attempts: int
    last_status: int | None
    last_error: str | None
    next_try: float | None


class Outbox:
    """The callbacks in one Redis. Every method raises redis.RedisError when Redis is away.

    A record is kept for `result_ttl` seconds after its callback was delivered, and for `callback_ttl`
    seconds, if that is longer, after it failed for good.
    """

    def __init__(self, redis: Redis, *, result_ttl: int, callback_ttl: int) -> None:
        self._redis = redis
        self._delivered_ttl = result_ttl
        self._failed_ttl = max(result_ttl, callback_ttl)
        self._take, self._renew, self._settle, self._release, self._resend, self._list, self._prune = (
            scripts.register(redis, f"outbox/{name}")
            for name in ("take", "renew", "settle", "release", "resend", "list", "prune")
        )

    def wait(self, timeout: float) -> bool:
        """Wait until a callback is added; False when none was for `timeout` seconds."""
        return self._redis.blpop([keys.WAKEUP], timeout=timeout) is not None

    def take(
        self, *, free: int, per_endpoint: int, free_bytes: int = MAX_TAKEN_BYTES, busy: Mapping[str, int] | None = None
    ) -> tuple[list[Callback], float | None]:
        """Lease callbacks that are due to this sender, `free` at most; with the seconds until the next is due.

        Their results have `free_bytes` together; the last may exceed that. `busy` is the number that this sender has in
        flight for each endpoint: none gets more than `per_endpoint`. Those whose lease has expired are due again.
        """
        next_in, taken = self._take(
            args=[
                *(free, per_endpoint, CALLBACK_LEASE, MAX_TAKEN, min(free_bytes, MAX_TAKEN_BYTES)),
                json.dumps(dict(busy or {})),
            ],
        )
        callbacks = [
            Callback(
                task_id=task_id,
                endpoint=endpoint,
                uri=uri,
                status=status,
                result=result,
                attempts=int(attempts),
                since_first=float(since_first),
                replays=int(replays),
            )
            for task_id, endpoint, uri, status, result, attempts, since_first, replays in taken
        ]
        return callbacks, float(next_in) if next_in else None

    def renew(self, callbacks: Iterable[Callback]) -> None:
        """Renew the leases of these callbacks, which are being sent."""
        task_ids = [callback.task_id for callback in callbacks]
        if task_ids:
            self._renew(args=[CALLBACK_LEASE, *task_ids])

    def settle(self, attempts: Sequence[tuple[Callback, AttemptResult]]) -> None:
        """Record how attempts ended: delivered, to be tried again, or failed for good."""
        if attempts:
            fields = json.dumps([_attempt_fields(callback, result) for callback, result in attempts])
            self._settle(args=[fields, self._delivered_ttl, self._failed_ttl, LONE_FAILURES])

    def release(self, callbacks: Iterable[Callback]) -> None:
        """Give up the leases of these callbacks: they are due now, and this was no attempt."""
        task_ids = [callback.task_id for callback in callbacks]
        if task_ids:
            self._release(args=task_ids)

    def undelivered(self) -> list[UndeliveredCallback]:
        """The callbacks that wait and those that failed for good, in the order in which their tasks ended."""
        found: list[UndeliveredCallback] = []
        for start in range(0, self._redis.zcard(keys.UNDELIVERED), MAX_SCANNED):
            for task_id, uri, state, attempts, status, error, due in self._list(args=[start, start + MAX_SCANNED - 1]):
                if not state:
                    # Its record is gone, or it runs again.
                    continue
                found.append(
                    UndeliveredCallback(
                        task_id=task_id,
                        uri=uri,
                        state=state,
                        attempts=int(attempts),
                        last_status=int(status) if status else None,
                        last_error=error or None,
                        next_try=float(due) if due else None,
                    )
                )
        return found

    def resend(self, task_ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Send these callbacks now, with a schedule that starts over; delivered ones too, while their record is kept.

        Returns the ids that are sent, and those that are unknown: without a record, without a callback, not ended.
        """
        unknown: set[str] = set()
        for start in range(0, len(task_ids), MAX_SCANNED):
            unknown.update(self._resend(args=list(task_ids[start : start + MAX_SCANNED])))
        return (
            [task_id for task_id in task_ids if task_id not in unknown],
            [task_id for task_id in task_ids if task_id in unknown],
        )

    def resend_failed(self) -> tuple[list[str], list[str]]:
        """Send every callback that failed for good again; returns what `resend` does."""
        return self.resend([callback.task_id for callback in self.undelivered() if callback.state == "FAILED"])

    def prune(self, cursor: int = 0) -> int:
        """Drop failed callbacks whose record has expired, some at a time; returns the next cursor, 0 at the end."""
        return int(self._prune(args=[cursor, MAX_SCANNED]))


def _attempt_fields(callback: Callback, result: AttemptResult) -> dict[str, Any]:
    """An attempt as settle.lua reads it: what is None is left out."""
    fields = {
        "task_id": callback.task_id,
        "endpoint": callback.endpoint,
        "replays": str(callback.replays),
        "attempts": callback.attempts,
        "status": "" if result.status is None else str(result.status),
        "error": result.error,
        "delivered": result.delivered,
        "endpoint_down": result.endpoint_down,
        "retry_in": result.retry_in,
    }
    return {name: value for name, value in fields.items() if value is not None}
