"""The callbacks that are to be sent, kept in Redis until their receiver has them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from app.serving.store import keys, outbox_steps, scripts

#: Seconds for which a sender has the callbacks that it took, unless it renews that. Then they go out again.
LEASE = 15

#: Callbacks taken, or looked at, in one step: Redis does nothing else meanwhile.
MAX_TAKEN = 64
MAX_SCANNED = 1000

#: Bytes of results that are taken in one step; the last may pass it, so that one of any size is taken.
MAX_TAKEN_BYTES = 16 * 1024 * 1024

#: How often the failure of one callback may count for its receiver, when others get through there. After that it is
#: the callback that the receiver cannot stand.
LONE_FAILURES = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Callback:
    """A callback to send now: to whom, and of which task; `result` is the text of JSON values.

    `attempts` have failed before, the first of them `since_first` seconds ago. A task that was replayed ends once more:
    then it is another event.
    """

    task_id: str
    receiver: str
    uri: str
    status: str
    result: str
    attempts: int = 0
    since_first: float = 0
    replays: int = 0

    @property
    def webhook_id(self) -> str:
        """The same at every attempt, so that the receiver can tell a repeat."""
        return f"{self.task_id}.{self.replays}" if self.replays else self.task_id


@dataclass(frozen=True, kw_only=True)
class AttemptResult:
    """How one attempt ended: delivered, or with an error. Then it is tried again `retry_in` so many seconds; never for
    None. `away`: the error says that the receiver is away, so that its next success brings this callback forward.
    """

    status: int | None = None
    error: str = ""
    delivered: bool = False
    retry_in: float | None = None
    away: bool = False


@dataclass(frozen=True, kw_only=True)
class UndeliveredCallback:
    """A callback that its receiver does not have: PENDING, or FAILED for good. `next_try` is in seconds since 1970."""

    task_id: str
    uri: str
    state: str
    attempts: int
    last_status: int | None
    last_error: str | None
    next_try: float | None


class Outbox:
    """The callbacks in one Redis. Every method raises redis.RedisError when Redis is away.

    A record is kept for `result_lifetime` seconds after its callback was delivered, and for `callback_lifetime`
    seconds, if that is longer, after it was given up.
    """

    def __init__(self, redis: Redis, *, result_lifetime: int, callback_lifetime: int) -> None:
        self._redis = redis
        self._result_lifetime = result_lifetime
        self._kept_for = max(result_lifetime, callback_lifetime)
        self._take = scripts.register(redis, outbox_steps.TAKE, outbox_steps.LISTS)
        self._renew = scripts.register(redis, outbox_steps.RENEW)
        self._settle = scripts.register(redis, outbox_steps.SETTLE, outbox_steps.LIFETIME, outbox_steps.LISTS)
        self._release = scripts.register(redis, outbox_steps.RELEASE, outbox_steps.LISTS)
        self._resend = scripts.register(redis, outbox_steps.RESEND, outbox_steps.LISTS, outbox_steps.SCHEDULE)
        self._list = scripts.register(redis, outbox_steps.LIST)
        self._prune = scripts.register(redis, outbox_steps.PRUNE)

    def wait(self, timeout: float) -> bool:
        """Whether there is news: a callback was added. Returns after `timeout` seconds at most."""
        return self._redis.blpop([keys.WAKEUP], timeout=timeout) is not None

    def take(
        self, *, free: int, per_receiver: int, free_bytes: int = MAX_TAKEN_BYTES, busy: Mapping[str, int] | None = None
    ) -> tuple[list[Callback], float | None]:
        """Callbacks that are due, `free` at most, for this sender to send; and the seconds until the next is due.

        They are enough when their results have `free_bytes` together; the last may have more. `busy` says how many this
        sender has in flight for each receiver: none gets more than `per_receiver`. What was taken by a sender that has
        not renewed it is due again.
        """
        next_in, taken = self._take(
            args=[
                *(free, per_receiver, LEASE, MAX_TAKEN, min(free_bytes, MAX_TAKEN_BYTES)),
                json.dumps(dict(busy or {})),
            ],
        )
        callbacks = [
            Callback(
                task_id=task_id,
                receiver=receiver,
                uri=uri,
                status=status,
                result=result,
                attempts=int(attempts),
                since_first=float(since_first),
                replays=int(replays),
            )
            for task_id, receiver, uri, status, result, attempts, since_first, replays in taken
        ]
        return callbacks, float(next_in) if next_in else None

    def renew(self, callbacks: Iterable[Callback]) -> None:
        """Keep these callbacks, which are being sent."""
        task_ids = [callback.task_id for callback in callbacks]
        if task_ids:
            self._renew(args=[LEASE, *task_ids])

    def settle(self, outcomes: Sequence[tuple[Callback, AttemptResult]]) -> None:
        """Record how attempts ended: delivered, to be tried again, or given up."""
        if outcomes:
            said = json.dumps([_said(callback, outcome) for callback, outcome in outcomes])
            self._settle(args=[said, self._result_lifetime, self._kept_for, LONE_FAILURES])

    def release(self, callbacks: Iterable[Callback]) -> None:
        """Give back callbacks that are not through: they are due now, and this was no attempt."""
        task_ids = [callback.task_id for callback in callbacks]
        if task_ids:
            self._release(args=task_ids)

    def undelivered(self) -> list[UndeliveredCallback]:
        """The callbacks that wait and those that were given up, in the order in which their tasks ended."""
        found: list[UndeliveredCallback] = []
        for start in range(0, self._redis.zcard(keys.UNDELIVERED), MAX_SCANNED):
            for task_id, uri, state, attempts, status, error, due in self._list(
                args=[start, start + MAX_SCANNED - 1],
            ):
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
        """Send these callbacks now, with a schedule that begins anew; delivered ones too, while their record is kept.

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
        """Send every callback now that was given up; returns what `resend` does."""
        return self.resend([callback.task_id for callback in self.undelivered() if callback.state == "FAILED"])

    def prune(self, cursor: int = 0) -> int:
        """Forget callbacks that were given up and whose record has expired, some at a time; returns the next cursor."""
        return int(self._prune(args=[cursor, MAX_SCANNED]))


def _said(callback: Callback, outcome: AttemptResult) -> dict[str, Any]:
    """An outcome as the script reads it: what is None is left out."""
    said = {
        "task_id": callback.task_id,
        "receiver": callback.receiver,
        "replays": str(callback.replays),
        "attempts": callback.attempts,
        "status": "" if outcome.status is None else str(outcome.status),
        "error": outcome.error,
        "delivered": outcome.delivered,
        "away": outcome.away,
        "retry_in": outcome.retry_in,
    }
    return {name: value for name, value in said.items() if value is not None}
