"""What workers report of themselves: whether they have the model loaded, are loading it, or could not."""

from __future__ import annotations

import enum
import json
from collections.abc import Collection
from dataclasses import dataclass

from redis import Redis

from app import keys, lua

#: Seconds between two reports of a worker, and seconds after which one that is silent counts as gone.
REPORT_EVERY = 5.0
REPORT_LIFETIME = 20

# A report is a hash: `state` and `cause` for whoever reads it, and a field for each process, from which they are made.
_MERGE = """
local function merge(report)
    local state, cause = 'LOADING', ''
    local fields = redis.call('HGETALL', report)
    for i = 1, #fields, 2 do
        if string.find(fields[i], '^process:') then
            local one, why = string.match(fields[i + 1], '^(%u+) ?(.*)$')
            if one == 'UP' or (one == 'ERROR' and state ~= 'UP') then
                state, cause = one, why
            end
        end
    end
    redis.call('HSET', report, 'state', state, 'cause', cause)
end
"""

_PROCESS = (
    _MERGE
    + """
local report, lifetime, pid, state, cause = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.call('HSET', report, 'process:' .. pid, state .. ' ' .. cause)
merge(report)
redis.call('EXPIRE', report, lifetime)
"""
)

# A process that the worker takes for loading keeps what it has reported itself: that it failed, or is just up.
_ALIVE = (
    _MERGE
    + """
local report, workers = KEYS[1], KEYS[2]
local lifetime, name, up, loading = ARGV[1], ARGV[2], cjson.decode(ARGV[3]), cjson.decode(ARGV[4])
local alive = {}
for _, pid in ipairs(up) do
    alive['process:' .. pid] = true
    redis.call('HSET', report, 'process:' .. pid, 'UP')
    redis.call('HDEL', report, 'process:died')
end
for _, pid in ipairs(loading) do
    alive['process:' .. pid] = true
    redis.call('HSETNX', report, 'process:' .. pid, 'LOADING')
end
for _, field in ipairs(redis.call('HKEYS', report)) do
    if string.find(field, '^process:%d') and not alive[field] then
        if redis.call('HGET', report, field) == 'LOADING' then
            redis.call('HSET', report, 'process:died', 'ERROR a process died while loading the model')
        end
        redis.call('HDEL', report, field)
    end
end
redis.call('SADD', workers, name)
merge(report)
redis.call('EXPIRE', report, lifetime)
"""
)


class WorkerState(enum.Enum):
    """What a worker, or one of its processes, is."""

    LOADING = "LOADING"
    UP = "UP"
    ERROR = "ERROR"


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """One worker: UP when one of its processes has the model, else ERROR with the cause when one could not load it."""

    name: str
    state: WorkerState
    cause: str = ""


class WorkerReports:
    """The reports in one Redis. Every method raises redis.RedisError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._process = lua.register(redis, _PROCESS)
        self._alive = lua.register(redis, _ALIVE)

    def alive(self, name: str, *, up: Collection[int], loading: Collection[int]) -> None:
        """Renew the report of the worker `name`, given the ids of its processes with and still without the model."""
        self._alive(
            keys=[keys.worker(name), keys.WORKERS],
            args=[REPORT_LIFETIME, name, json.dumps(sorted(up)), json.dumps(sorted(loading))],
        )

    def process(self, name: str, pid: int, state: WorkerState, cause: str = "") -> None:
        """Report at once that a process of the worker `name` is UP, or could not load the model and why."""
        self._process(keys=[keys.worker(name)], args=[REPORT_LIFETIME, pid, state.value, cause])

    def died(self, name: str) -> bool:
        """Whether a process of the worker `name` died while loading the model, and none has loaded it since."""
        return bool(self._redis.hexists(keys.worker(name), "process:died"))

    def forget(self, name: str) -> None:
        """Remove the report of a worker that starts or stops."""
        with self._redis.pipeline() as pipe:
            pipe.delete(keys.worker(name))
            pipe.srem(keys.WORKERS, name)
            pipe.execute()

    def read(self) -> list[WorkerReport]:
        """The workers that are alive, by name."""
        names: list[str] = sorted(self._redis.smembers(keys.WORKERS))  # type: ignore[arg-type]
        with self._redis.pipeline() as pipe:
            for name in names:
                pipe.hmget(keys.worker(name), ["state", "cause"])
            reports = pipe.execute()
        return [
            WorkerReport(name=name, state=WorkerState(state), cause=cause)
            for name, (state, cause) in zip(names, reports, strict=True)
            if state
        ]
