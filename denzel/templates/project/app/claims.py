"""Who has which task: taking messages from the queue, keeping them, and giving them back.

A message is taken in one step: off the queue, and into Kombu's hash of unacknowledged messages, with the name of the
worker that has it. The worker renews its claims while it lives, so a claim that is not renewed is a dead worker's,
however long its task runs; it goes back to the queue. A claim ends in the step that ends its task (app/records.py).
"""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from redis import Redis

from app import keys, lua
from app.records import END

#: Seconds after which a claim that is not renewed is a dead worker's; and seconds between two renewals.
CLAIM_TIMEOUT = 20.0
RENEW_EVERY = 2.0

# Seconds that a claim may be unknown to its own worker: between the answer of Redis and Celery's note of it.
_UNKNOWN_FOR = 10.0

# A message in the hash is JSON: the message, the exchange, the routing key. Ours is never parsed here; it can be long.
_MESSAGES = """
local UNACKED_END = ', "", "' .. QUEUE .. '"]'

local function claim_text(message)
    return '[' .. message .. UNACKED_END
end

local function message_of(text)
    return string.sub(text, 2, -#UNACKED_END - 1)
end

local function task_of(message)
    return string.match(message, '"id":%s*"([^"]+)"'), string.match(message, '"delivery_tag":%s*"([^"]+)"')
end
"""

_QUARANTINE = """
-- A month, in seconds.
local KEPT_FOR = 30 * 24 * 3600

local function quarantine(task_id, message, deliveries, reason)
    local kept = QUARANTINED .. task_id
    redis.call('ZREMRANGEBYSCORE', QUARANTINE, '-inf', now() - KEPT_FOR)
    redis.call('ZADD', QUARANTINE, now(), task_id)
    redis.call('HSET', kept, 'message', message, 'deliveries', deliveries, 'reason', reason)
    redis.call('EXPIRE', kept, KEPT_FOR)
    -- The record expires, with where its callback goes.
    for _, field in ipairs({'callback_uri', 'receiver', 'replays'}) do
        local value = redis.call('HGET', TASK .. task_id, field)
        if value then
            redis.call('HSET', kept, field, value)
        end
    end
end
"""

# `died` says that a worker died with it: then it counts as a delivery, and the last one ends the task.
_GIVE_BACK = """
local function why_given_up(deliveries)
    return 'the worker died while running this task, ' .. (deliveries == 1 and 'once' or deliveries .. ' times')
end

local function give_back(tag, died, most_deliveries, lifetime)
    local text = redis.call('HGET', UNACKED, tag)
    release_claim(tag)
    if not text then
        return
    end
    local message = message_of(text)
    local task_id = task_of(message)
    local task = TASK .. task_id
    if redis.call('HEXISTS', task, 'result') == 1 then
        return
    end
    local deliveries = redis.call('HINCRBY', task, 'deliveries', died and 0 or -1)
    if deliveries >= most_deliveries then
        local reason = why_given_up(deliveries)
        quarantine(task_id, message, deliveries, reason)
        end_task(task_id, tag, 'FAILURE', cjson.encode({args = {reason}}), lifetime)
        return
    end
    redis.call('HSET', task, 'status', 'PENDING', 'since', now())
    redis.call('ZADD', WAITING, redis.call('HGET', task, 'place') or 0, task_id)
    redis.call('RPUSH', QUEUE, message)
end
"""

# Takes what some processes can run: each several tasks in one go, or one alone. A task that was delivered before is
# alone, so that one which kills its process is not taken for another; so is one that another Celery client has sent.
_TAKE = """
local ENOUGH_BYTES = 1024 * 1024
local owner, count_key, free, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local taken, count, places, bytes = {}, 0, 0, 0

local function keep(task_id, tag, message)
    redis.call('HSET', TASK .. task_id, 'status', 'STARTED', 'since', now())
    redis.call('ZREM', WAITING, task_id)
    redis.call('HSET', UNACKED, tag, claim_text(message))
    redis.call('ZADD', UNACKED_INDEX, now(), tag)
    redis.call('HSET', CLAIMANTS, tag, owner)
    count, bytes = count + 1, bytes + #message
    taken[2 * count - 1], taken[2 * count] = message, redis.call('HINCRBY', TASK .. task_id, 'deliveries', 1)
end

-- Large ones are taken a few at a time, so that this, and handing them over, does not take long.
while (places > 0 or free > 0) and bytes < ENOUGH_BYTES do
    local message = redis.call('RPOP', QUEUE)
    if not message then
        break
    end
    local task_id, tag = task_of(message)
    local record = task_id and redis.call('HMGET', TASK .. task_id, 'status', 'deliveries') or {}
    local status, delivered = record[1], tonumber(record[2] or 0)
    if not (task_id and tag) then
        -- No Celery message: kept, as everything is.
        quarantine(string.format('unreadable-%.6f', now()), message, 0, 'not a message that Celery could have sent')
    elseif status == 'PENDING' or status == 'STARTED' or status == 'RETRY' or (not status and tag ~= task_id) then
        local is_alone = delivered > 0 or tag ~= task_id
        if is_alone and free == 0 then
            redis.call('RPUSH', QUEUE, message)
            break
        elseif is_alone then
            free = free - 1
        else
            if places == 0 then
                free, places = free - 1, most
            end
            places = places - 1
        end
        keep(task_id, tag, message)
    end
end
if count > 0 then
    redis.call('INCRBY', count_key, count)
    redis.call('EXPIRE', count_key, 86400)
end
return taken
"""

# Renews what this worker has; gives back what it does not know of (the answer that told it was lost, or it dropped it
# with a broken connection), what an earlier life of it had, and what nobody renews. After a time in which nobody
# looked, because Redis was away or all workers were, everybody gets a new chance to renew first. Where nothing is
# claimed, nothing is written.
_RENEW = """
local owner, host, known, timeout = ARGV[1], ARGV[2], cjson.decode(ARGV[3]), tonumber(ARGV[4])
local unknown_for, most_deliveries, lifetime = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local time = now()

local function begin_anew()
    for _, tag in ipairs(redis.call('ZRANGE', UNACKED_INDEX, 0, -1)) do
        redis.call('ZADD', UNACKED_INDEX, time, tag)
    end
end

local function look_at(tag, claimant)
    if claimant == owner and known[tag] then
        redis.call('ZADD', UNACKED_INDEX, time, tag)
        return
    end
    local age = time - tonumber(redis.call('ZSCORE', UNACKED_INDEX, tag) or 0)
    if claimant == owner then
        if age > unknown_for then
            give_back(tag, false, most_deliveries, lifetime)
        end
    elseif age > timeout or string.sub(claimant, 1, #host) == host then
        give_back(tag, true, most_deliveries, lifetime)
    end
end

local claims = redis.call('HGETALL', CLAIMANTS)
if #claims > 0 then
    local looked = tonumber(redis.call('GET', SWEPT) or 0)
    -- Also when the clock was set back.
    if time - looked > timeout / 2 or time < looked then
        begin_anew()
    end
    redis.call('SET', SWEPT, time)
end
for i = 1, #claims, 2 do
    look_at(claims[i], claims[i + 1])
end

local cancelled = {}
for _, task_id in pairs(known) do
    if redis.call('HGET', TASK .. task_id, 'status') == 'REVOKED' then
        table.insert(cancelled, task_id)
    end
end
announce_ends()
return cancelled
"""

# Those whose claim has gone to another worker meanwhile are that one's.
_GIVE_BACK_SOME = """
local owner, most_deliveries, lifetime = ARGV[1], tonumber(ARGV[2]), ARGV[3]
-- The last of them is put to the head of the queue first, so that they keep their order.
for i = #ARGV - 1, 4, -2 do
    if redis.call('HGET', CLAIMANTS, ARGV[i]) == owner then
        give_back(ARGV[i], ARGV[i + 1] == 'died', most_deliveries, lifetime)
    end
end
announce_ends()
"""

_GIVE_ALL_BACK = """
local claims = redis.call('HGETALL', CLAIMANTS)
for i = 1, #claims, 2 do
    if claims[i + 1] == ARGV[1] then
        give_back(claims[i], false, tonumber(ARGV[2]), ARGV[3])
    end
end
announce_ends()
"""

_RELEASE = """
if redis.call('HGET', CLAIMANTS, ARGV[2]) == ARGV[1] then
    release_claim(ARGV[2])
end
"""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a task that kills its worker is given up: after so many deliveries; its record is kept so many seconds."""

    deliveries: int
    lifetime: int


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A message that was taken, and how often it was by now."""

    message: str
    deliveries: int


class Claims:
    """One worker's claims. Every method is one round trip, and raises redis.RedisError when Redis is away."""

    def __init__(
        self, redis: Redis, limits: Limits, *, host: str | None = None, timeout: float = CLAIM_TIMEOUT
    ) -> None:
        """Two lives of a worker on the same `host` are told apart: what the earlier one had is given back at once."""
        host = host or socket.gethostname()
        self._count_key = keys.taken(host)
        self._host = f"{host}/"
        self.owner = self._host + uuid.uuid4().hex
        self._timeout = timeout
        self._limits = [limits.deliveries, limits.lifetime]
        functions = (END, _MESSAGES, _QUARANTINE, _GIVE_BACK)
        self._take = lua.register(redis, _TAKE, _MESSAGES, _QUARANTINE)
        self._renew = lua.register(redis, _RENEW, *functions)
        self._give_back = lua.register(redis, _GIVE_BACK_SOME, *functions)
        self._give_all_back = lua.register(redis, _GIVE_ALL_BACK, *functions)
        self._release = lua.register(redis, _RELEASE, END)

    def take(self, *, free: int, most: int) -> list[Claimed]:
        """The next messages of the queue for `free` processes, each of which can run `most` tasks in one go.

        Cancelled ones are dropped.
        """
        taken = iter(self._take(args=[self.owner, self._count_key, free, most]))
        return [
            Claimed(message=message, deliveries=deliveries) for message, deliveries in zip(taken, taken, strict=True)
        ]

    def renew(self, known: dict[str, str]) -> list[str]:
        """Keep the claims on the messages that this worker knows of, by delivery tag with their tasks' ids.

        Returns the ids of those tasks that were cancelled meanwhile. What no living worker has goes back to the queue.
        """
        cancelled: list[str] = self._renew(
            args=[self.owner, self._host, json.dumps(known), self._timeout, _UNKNOWN_FOR, *self._limits]
        )
        return cancelled

    def give_back(self, tags: Mapping[str, bool]) -> None:
        """Put messages to the head of the queue in their order; or end the task of one when a process died of it, which
        its value says, for the last time.
        """
        told = [text for tag, died in tags.items() for text in (tag, "died" if died else "")]
        self._give_back(args=[self.owner, *self._limits, *told])

    def give_all_back(self) -> None:
        """Put all that this worker has to the head of the queue: it stops."""
        self._give_all_back(args=[self.owner, *self._limits])

    def release(self, tag: str) -> None:
        """Let go of a message whose task has ended."""
        self._release(args=[self.owner, tag])
