"""What workers report of themselves: whether they have the model loaded, are loading it, or could not."""

from __future__ import annotations

import enum
import json
import signal
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from redis import Redis

from app.serving.store import keys, scripts

#: Seconds between two reports of a worker, and seconds after which one that is silent counts as gone.
HEARTBEAT_INTERVAL = 5.0
REPORT_TTL = 20

#: The cause when nobody knows more.
DIED = "a process died while loading the model"

# A report is a hash: `state` and `cause` for whoever reads it, and a field for each process, from which they are made:
# `process:<host>/<pid>`, as the same worker may run on several hosts (containers). Each renews what it knows, and
# `seen:<host>` says when; what a host that is silent has said is dropped.
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
local report, lifetime, host, pid, state, cause = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
redis.call('HSET', report, 'process:' .. host .. '/' .. pid, state .. ' ' .. cause, 'seen:' .. host, now())
merge(report)
redis.call('EXPIRE', report, lifetime)
if state == 'UP' then
    redis.call('DEL', KEYS[2])
end
"""
)

# A process that the worker takes for loading keeps what it has reported itself: that it failed, or is just up.
_ALIVE = (
    _MERGE
    + """
local report, workers = KEYS[1], KEYS[2]
local lifetime, name, host = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local up, loading, causes = cjson.decode(ARGV[4]), cjson.decode(ARGV[5]), cjson.decode(ARGV[6])
local own, time, alive = 'process:' .. host .. '/', now(), {}
redis.call('HSET', report, 'seen:' .. host, time)
for _, pid in ipairs(up) do
    alive[own .. pid] = true
    redis.call('HSET', report, own .. pid, 'UP')
    redis.call('HDEL', report, own .. 'died')
end
for _, pid in ipairs(loading) do
    alive[own .. pid] = true
    redis.call('HSETNX', report, own .. pid, 'LOADING')
end
for _, field in ipairs(redis.call('HKEYS', report)) do
    local whose, pid = string.match(field, '^process:(.*)/(.*)$')
    if whose == host and pid ~= 'died' and not alive[field] then
        if redis.call('HGET', report, field) == 'LOADING' then
            redis.call('HSET', report, own .. 'died', 'ERROR ' .. (causes[pid] or causes['']))
        end
        redis.call('HDEL', report, field)
    elseif whose and time - tonumber(redis.call('HGET', report, 'seen:' .. whose) or 0) > lifetime then
        redis.call('HDEL', report, field)
    end
end
redis.call('SADD', workers, name)
merge(report)
redis.call('EXPIRE', report, lifetime)
"""
)


_KEEP = """
if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('HSET', KEYS[1], 'seen:' .. ARGV[2], now())
    redis.call('EXPIRE', KEYS[1], ARGV[1])
end
"""

_BEGINS = """
if redis.call('HSETNX', KEYS[1], ARGV[1], 'LOADING') == 0 then
    redis.call('HSET', KEYS[1], ARGV[1], 'DIED')
end
"""

# What other hosts have said stays.
_FORGET = (
    _MERGE
    + """
local report, workers, name, own = KEYS[1], KEYS[2], ARGV[1], 'process:' .. ARGV[2] .. '/'
local others = false
for _, field in ipairs(redis.call('HKEYS', report)) do
    if string.sub(field, 1, #own) == own then
        redis.call('HDEL', report, field)
    elseif string.find(field, '^process:') then
        others = true
    end
end
if others then
    merge(report)
else
    redis.call('DEL', report)
    redis.call('SREM', workers, name)
end
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


class WorkerRegistry:
    """The reports in one Redis. Every method raises redis.RedisError when Redis is away."""

    def __init__(self, redis: Redis, *, host: str | None = None) -> None:
        """Processes are those of this `host`."""
        self._redis = redis
        self._host = host or socket.gethostname()
        self._process = scripts.register(redis, _PROCESS)
        self._alive = scripts.register(redis, _ALIVE)
        self._forget = scripts.register(redis, _FORGET)
        self._keep = scripts.register(redis, _KEEP)
        self._begins = scripts.register(redis, _BEGINS)

    def alive(
        self, name: str, *, up: Collection[int], loading: Collection[int], ended: Mapping[int, int] | None = None
    ) -> None:
        """Renew the report of the worker `name`, given the ids of its processes with and still without the model.

        `ended` are the exit codes of those that are no more, as far as they are known; below 0 it was a signal.
        """
        self._renew(self._redis, name, up, loading, ended or {})

    def process(self, name: str, pid: int, state: WorkerState, cause: str = "") -> None:
        """Report at once that a process of the worker `name` is UP, or could not load the model and why."""
        self._process(
            keys=[keys.worker(name), keys.loads(name)], args=[REPORT_TTL, self._host, pid, state.value, cause]
        )

    def begins_to_load(self, name: str, pid: int) -> None:
        """The main process of the worker `name` begins to load the model itself; nothing else would outlive its death.

        What an earlier life of it began, and neither finished nor gave up when it was told to stop, was its death. That
        is remembered until a process is UP; nobody sees this life as one that loads and knows of no other.
        """
        with self._redis.pipeline() as pipe:
            self._renew(pipe, name, (), {pid}, {})
            self._begins(keys=[keys.loads(name)], args=[self._host], client=pipe)
            pipe.execute()

    def still_loads(self, name: str) -> None:
        """Say it again, as somebody may have forgotten what was before."""
        self._redis.hsetnx(keys.loads(name), self._host, "LOADING")

    def gives_up_loading(self, name: str) -> None:
        """The main process of the worker `name` was told to stop."""
        self._redis.hdel(keys.loads(name), self._host)

    def ended(self, name: str, pid: int) -> None:
        """Remove what a process of the worker `name` has reported: it will not predict."""
        self._redis.hdel(keys.worker(name), f"process:{self._host}/{pid}")

    def keep(self, name: str) -> None:
        """Let the report of the worker `name` stand as it is, when there is one."""
        self._keep(keys=[keys.worker(name)], args=[REPORT_TTL, self._host])

    def died(self, name: str) -> bool:
        """Whether a process of the worker `name` died while loading the model, and none has loaded it since."""
        return bool(self._redis.hexists(keys.worker(name), f"process:{self._host}/died"))

    def forget(self, name: str) -> None:
        """Remove what the worker `name` on this host has reported: it stops."""
        self._forget(keys=[keys.worker(name), keys.WORKERS], args=[name, self._host])

    def read(self) -> list[WorkerReport]:
        """The workers that are alive, by name."""
        names: list[str] = sorted(self._redis.smembers(keys.WORKERS))  # type: ignore[arg-type]
        with self._redis.pipeline() as pipe:
            for name in names:
                pipe.hmget(keys.worker(name), ["state", "cause"])
                pipe.hvals(keys.loads(name))
            answers = pipe.execute()
        return [
            _report(name, WorkerState(state), cause, loads)
            for name, (state, cause), loads in zip(names, answers[::2], answers[1::2], strict=True)
            if state
        ]

    def _renew(
        self, client: Redis, name: str, up: Collection[int], loading: Collection[int], ended: Mapping[int, int]
    ) -> None:
        causes = {"": DIED, **{str(pid): how_load_model_ended(code) for pid, code in ended.items()}}
        self._alive(
            keys=[keys.worker(name), keys.WORKERS],
            args=[
                *(REPORT_TTL, name, self._host),
                *(json.dumps(sorted(up)), json.dumps(sorted(loading)), json.dumps(causes)),
            ],
            client=client,
        )


def _report(name: str, state: WorkerState, cause: str, loads: list[str]) -> WorkerReport:
    if state is WorkerState.LOADING and "DIED" in loads:
        return WorkerReport(name=name, state=WorkerState.ERROR, cause=DIED)
    return WorkerReport(name=name, state=state, cause=cause)


def how_load_model_ended(code: int) -> str:
    """What is said of a process that ended with this exit code, below 0 for a signal, while it loaded the model."""
    if code >= 0:
        return f"load_model ended its process with exit code {code}"
    known = {one.value: f" ({one.name})" for one in signal.Signals}
    memory = ", as when memory runs out" if -code == signal.SIGKILL else ""
    return f"load_model ended its process with signal {-code}{known.get(-code, '')}{memory}"
