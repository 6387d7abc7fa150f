"""The callbacks that are to be sent, kept in Redis until their receiver has them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from app import keys, lua

#: Seconds for which a sender has the callbacks that it took, unless it renews that. Then they go out again.
LEASE = 15

#: Callbacks taken, or looked at, in one step: Redis does nothing else meanwhile.
TAKE_AT_MOST = 64
LOOK_AT_MOST = 1000

#: How often the failure of one callback may count for its receiver, when others get through there. After that it is
#: the callback that the receiver can not stand.
LONE_FAILURES = 3

# Until when the record of a task is kept, and with it the Idempotency-Key that it came with, if any.
LIFETIME = """
local function expire_task(task_id, lifetime)
    local task = TASK .. task_id
    redis.call('EXPIRE', task, lifetime)
    local idempotency = redis.call('HGET', task, 'idempotency')
    if idempotency then
        redis.call('EXPIRE', idempotency, lifetime)
    end
end

local function keep_task(task_id)
    local task = TASK .. task_id
    redis.call('PERSIST', task)
    local idempotency = redis.call('HGET', task, 'idempotency')
    if idempotency then
        redis.call('PERSIST', idempotency)
    end
end
"""

# Puts the callback of a task that has just ended on its receiver's list, as a part of the script that ends it. The
# record keeps its state, and does not expire before the callback is through. A task that ends once more, after it was
# replayed, begins anew.
SCHEDULE = (
    LIFETIME
    + """
local function schedule_callback(task_id, due)
    local task = TASK .. task_id
    local receiver = redis.call('HGET', task, 'receiver')
    redis.call('HSET', task, 'callback', 'PENDING')
    redis.call('HDEL', task, 'callback_attempts', 'callback_status', 'callback_error', 'callback_first',
        'callback_alone', 'callback_away')
    keep_task(task_id)
    redis.call('ZADD', UNDELIVERED, due, task_id)
    redis.call('ZADD', CALLBACKS .. receiver, due, task_id)
    redis.call('ZADD', RECEIVERS, 'LT', due, receiver)
    if redis.call('EXISTS', BELL) == 0 then
        redis.call('LPUSH', BELL, '1')
    end
end
"""
)

# Takes back the callback of a task that is to run again.
FORGET = """
local function forget_callback(task_id)
    local receiver = redis.call('HGET', TASK .. task_id, 'receiver')
    if receiver then
        redis.call('ZREM', CALLBACKS .. receiver, task_id)
    end
    redis.call('ZREM', SENDING, task_id)
    redis.call('ZREM', UNDELIVERED, task_id)
end
"""

# `refresh` keeps the first due time of a receiver in step with its list.
_LISTS = """
local function refresh(receiver)
    local first = redis.call('ZRANGE', CALLBACKS .. receiver, 0, 0, 'WITHSCORES')
    if first[2] then
        redis.call('ZADD', RECEIVERS, first[2], receiver)
    else
        redis.call('ZREM', RECEIVERS, receiver)
    end
end

local function put_back(task_id, receiver, due)
    redis.call('ZREM', SENDING, task_id)
    redis.call('ZADD', CALLBACKS .. receiver, due, task_id)
    refresh(receiver)
end

local function forget(task_id, receiver)
    redis.call('ZREM', SENDING, task_id)
    redis.call('ZREM', UNDELIVERED, task_id)
    if receiver then
        redis.call('ZREM', CALLBACKS .. receiver, task_id)
        refresh(receiver)
    end
end
"""

# Room is shared: the fewer places are free, the fewer a receiver may take, so that some that hang leave places to all
# others. One that is down is tried by one callback at a time.
_TAKE = """
local free, per_receiver, lease, at_most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local busy = cjson.decode(ARGV[5])
local at = now()

for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', SENDING, '-inf', at, 'LIMIT', 0, at_most)) do
    local record = redis.call('HMGET', TASK .. task_id, 'receiver', 'callback')
    if record[1] and record[2] == 'PENDING' then
        put_back(task_id, record[1], at)
    else
        redis.call('ZREM', SENDING, task_id)
    end
end

local taken = {}
local function take(task_id, receiver)
    local task = TASK .. task_id
    redis.call('ZREM', CALLBACKS .. receiver, task_id)
    local record = redis.call('HMGET', task, 'callback_uri', 'status', 'result', 'callback_attempts', 'replays')
    if not record[1] or not record[3] then
        redis.call('ZREM', UNDELIVERED, task_id)
        return 0
    end
    redis.call('ZADD', SENDING, at + lease, task_id)
    redis.call('HSETNX', task, 'callback_first', at)
    local first = tonumber(redis.call('HGET', task, 'callback_first'))
    taken[#taken + 1] = {task_id, receiver, record[1], record[2], record[3], record[4] or '0',
        string.format('%.6f', at - first), record[5] or '0'}
    return 1
end

for _, receiver in ipairs(redis.call('ZRANGEBYSCORE', RECEIVERS, '-inf', at)) do
    if free <= 0 or #taken >= at_most then
        break
    end
    local room = math.min(per_receiver, math.max(1, math.floor(free / per_receiver)))
    if redis.call('SISMEMBER', DOWN, receiver) == 1 then
        room = 1
    end
    room = math.min(room - (busy[receiver] or 0), free, at_most - #taken)
    if room > 0 then
        for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', CALLBACKS .. receiver, '-inf', at, 'LIMIT', 0, room)) do
            free = free - take(task_id, receiver)
        end
        refresh(receiver)
    end
end

local later = redis.call('ZRANGEBYSCORE', RECEIVERS, '(' .. string.format('%.6f', at), '+inf', 'WITHSCORES',
    'LIMIT', 0, 1)
return {later[2] and string.format('%.6f', later[2] - at) or '', taken}
"""

_RENEW = """
local ends = now() + tonumber(ARGV[1])
for i = 2, #ARGV do
    redis.call('ZADD', SENDING, 'XX', ends, ARGV[i])
end
"""

# What was said of an earlier event of the same task, or of a callback that another sender brought through, changes
# nothing any more.
_SETTLE = """
local result_lifetime, kept_for, lone_failures = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local at = now()

-- The receiver is back: what waits because of it is due now.
local function hurry(receiver)
    local list = CALLBACKS .. receiver
    for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', list, '(' .. string.format('%.6f', at), '+inf')) do
        if redis.call('HEXISTS', TASK .. task_id, 'callback_away') == 1 then
            redis.call('ZADD', list, at, task_id)
        end
    end
    refresh(receiver)
end

-- Whether this failure says that the receiver is away, and not that it can not stand this callback.
local function receiver_is_away(task, receiver)
    if redis.call('SISMEMBER', DOWN, receiver) == 1 then
        return true
    end
    return redis.call('HINCRBY', task, 'callback_alone', 1) <= lone_failures
end

local function settle(outcome)
    local task_id, receiver = outcome.task_id, outcome.receiver
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'callback', 'replays')
    if not record[1] then
        return forget(task_id, receiver)
    elseif (record[2] or '0') ~= outcome.replays then
        return
    elseif record[1] ~= 'PENDING' then
        return redis.call('ZREM', SENDING, task_id)
    end
    redis.call('HINCRBY', task, 'callback_attempts', 1)
    redis.call('HSET', task, 'callback_status', outcome.status)
    if outcome.delivered then
        redis.call('HSET', task, 'callback', 'DELIVERED')
        redis.call('HDEL', task, 'callback_error', 'callback_away')
        forget(task_id, receiver)
        expire_task(task_id, result_lifetime)
        if redis.call('SREM', DOWN, receiver) == 1 then
            hurry(receiver)
        end
        return
    end
    redis.call('HSET', task, 'callback_error', outcome.error)
    if outcome.retry_in then
        if outcome.away and receiver_is_away(task, receiver) then
            redis.call('SADD', DOWN, receiver)
            redis.call('HSET', task, 'callback_away', 1)
        else
            redis.call('HDEL', task, 'callback_away')
        end
        return put_back(task_id, receiver, at + outcome.retry_in)
    end
    redis.call('HSET', task, 'callback', 'FAILED')
    expire_task(task_id, kept_for)
    redis.call('ZREM', SENDING, task_id)
    redis.call('ZREM', CALLBACKS .. receiver, task_id)
    refresh(receiver)
    if redis.call('EXISTS', CALLBACKS .. receiver) == 0 then
        redis.call('SREM', DOWN, receiver)
    end
end

for _, outcome in ipairs(cjson.decode(ARGV[1])) do
    settle(outcome)
end
"""

_RELEASE = """
for _, task_id in ipairs(ARGV) do
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'receiver', 'callback', 'callback_attempts')
    if record[2] == 'PENDING' and redis.call('ZSCORE', SENDING, task_id) then
        if (record[3] or '0') == '0' then
            redis.call('HDEL', task, 'callback_first')
        end
        put_back(task_id, record[1], now())
    end
end
"""

_RESEND = """
local unknown, at = {}, now()
for _, task_id in ipairs(ARGV) do
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'receiver', 'callback', 'result')
    if record[1] and record[2] and record[3] then
        local waits_since = redis.call('ZSCORE', UNDELIVERED, task_id) or at
        local is_sent = redis.call('ZSCORE', SENDING, task_id)
        schedule_callback(task_id, at)
        redis.call('ZADD', UNDELIVERED, waits_since, task_id)
        if is_sent then
            redis.call('ZREM', CALLBACKS .. record[1], task_id)
        end
        refresh(record[1])
    else
        unknown[#unknown + 1] = task_id
    end
end
return unknown
"""

_LIST = """
local rows = {}
for _, task_id in ipairs(redis.call('ZRANGE', UNDELIVERED, ARGV[1], ARGV[2])) do
    local record = redis.call('HMGET', TASK .. task_id, 'callback_uri', 'callback', 'callback_attempts',
        'callback_status', 'callback_error', 'receiver')
    local due = record[6] and redis.call('ZSCORE', CALLBACKS .. record[6], task_id)
    rows[#rows + 1] = {task_id, record[1] or '', record[2] or '', record[3] or '0', record[4] or '',
        record[5] or '', due or ''}
end
return rows
"""

_PRUNE = """
local seen = redis.call('ZSCAN', UNDELIVERED, ARGV[1], 'COUNT', ARGV[2])
for i = 1, #seen[2], 2 do
    if redis.call('EXISTS', TASK .. seen[2][i]) == 0 then
        redis.call('ZREM', UNDELIVERED, seen[2][i])
    end
end
return seen[1]
"""


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
class Outcome:
    """How one attempt ended: delivered, or with an error. Then it is tried again `retry_in` so many seconds; never for
    None. `away`: the error says that the receiver is away, so that its next success brings this callback forward.
    """

    status: int | None = None
    error: str = ""
    delivered: bool = False
    retry_in: float | None = None
    away: bool = False


@dataclass(frozen=True, kw_only=True)
class Undelivered:
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
        self._take = lua.register(redis, _TAKE, _LISTS)
        self._renew = lua.register(redis, _RENEW)
        self._settle = lua.register(redis, _SETTLE, LIFETIME, _LISTS)
        self._release = lua.register(redis, _RELEASE, _LISTS)
        self._resend = lua.register(redis, _RESEND, _LISTS, SCHEDULE)
        self._list = lua.register(redis, _LIST)
        self._prune = lua.register(redis, _PRUNE)

    def wait(self, timeout: float) -> bool:
        """Whether there is news: a callback was added. Returns after `timeout` seconds at most."""
        return self._redis.blpop([keys.BELL], timeout=timeout) is not None

    def take(
        self, *, free: int, per_receiver: int, busy: Mapping[str, int] | None = None
    ) -> tuple[list[Callback], float | None]:
        """Callbacks that are due, `free` at most, for this sender to send; and the seconds until the next is due.

        `busy` says how many this sender has in flight for each receiver: none gets more than `per_receiver`. What was
        taken by a sender that has not renewed it is due again.
        """
        next_in, taken = self._take(
            args=[free, per_receiver, LEASE, TAKE_AT_MOST, json.dumps(dict(busy or {}))],
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

    def settle(self, outcomes: Sequence[tuple[Callback, Outcome]]) -> None:
        """Record how attempts ended: delivered, to be tried again, or given up."""
        if outcomes:
            said = json.dumps([_said(callback, outcome) for callback, outcome in outcomes])
            self._settle(args=[said, self._result_lifetime, self._kept_for, LONE_FAILURES])

    def release(self, callbacks: Iterable[Callback]) -> None:
        """Give back callbacks that are not through: they are due now, and this was no attempt."""
        task_ids = [callback.task_id for callback in callbacks]
        if task_ids:
            self._release(args=task_ids)

    def undelivered(self) -> list[Undelivered]:
        """The callbacks that wait and those that were given up, in the order in which their tasks ended."""
        found: list[Undelivered] = []
        gone: list[str] = []
        for start in range(0, self._redis.zcard(keys.UNDELIVERED), LOOK_AT_MOST):
            for task_id, uri, state, attempts, status, error, due in self._list(
                args=[start, start + LOOK_AT_MOST - 1],
            ):
                if not state:
                    gone.append(task_id)
                    continue
                found.append(
                    Undelivered(
                        task_id=task_id,
                        uri=uri,
                        state=state,
                        attempts=int(attempts),
                        last_status=int(status) if status else None,
                        last_error=error or None,
                        next_try=float(due) if due else None,
                    )
                )
        if gone:
            self._redis.zrem(keys.UNDELIVERED, *gone)
        return found

    def resend(self, task_ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Send these callbacks now, with a schedule that begins anew; delivered ones too, while their record is kept.

        Returns the ids that are sent, and those that are unknown: without a record, without a callback, not ended.
        """
        unknown: set[str] = set()
        for start in range(0, len(task_ids), LOOK_AT_MOST):
            unknown.update(self._resend(args=list(task_ids[start : start + LOOK_AT_MOST])))
        return (
            [task_id for task_id in task_ids if task_id not in unknown],
            [task_id for task_id in task_ids if task_id in unknown],
        )

    def resend_failed(self) -> tuple[list[str], list[str]]:
        """Send every callback now that was given up; returns what `resend` does."""
        return self.resend([callback.task_id for callback in self.undelivered() if callback.state == "FAILED"])

    def prune(self, cursor: int = 0) -> int:
        """Forget callbacks that were given up and whose record has expired, some at a time; returns the next cursor."""
        return int(self._prune(args=[cursor, LOOK_AT_MOST]))


def _said(callback: Callback, outcome: Outcome) -> dict[str, Any]:
    """An outcome as the script reads it: what is None is left out."""
    said = {
        "task_id": callback.task_id,
        "receiver": callback.receiver,
        "replays": str(callback.replays),
        "status": "" if outcome.status is None else str(outcome.status),
        "error": outcome.error,
        "delivered": outcome.delivered,
        "away": outcome.away,
        "retry_in": outcome.retry_in,
    }
    return {name: value for name, value in said.items() if value is not None}
