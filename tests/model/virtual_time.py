"""The Lua scripts with a clock of the test's own, and with one line changed where a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from redis import Redis

from app.serving.store import scripts

#: The time of this clock, in seconds; when keys expire, by its time; and what the scripts have published,
#: channel and message in turn.
NOW = "model:now"
EXPIRY = "model:expiry"
PUBLISHED = "model:published"

#: Where the clock begins. It moves by quarters of a second, so that no sum is rounded.
START = 1_700_000_000.0

# In front of each script. Nothing expires by the server's own clock.
_PREAMBLE = f"""
local server = redis
local redis = setmetatable({{}}, {{__index = server}})
function redis.call(command, key, ...)
    if command == 'TIME' then
        local time = tonumber(server.call('GET', '{NOW}'))
        return {{math.floor(time), (time - math.floor(time)) * 1000000}}
    elseif command == 'EXPIRE' then
        if server.call('EXISTS', key) == 1 then
            server.call('ZADD', '{EXPIRY}', server.call('GET', '{NOW}') + select(1, ...), key)
        end
        return 1
    elseif command == 'PERSIST' or command == 'DEL' then
        server.call('ZREM', '{EXPIRY}', key, ...)
        return command == 'DEL' and server.call('DEL', key, ...) or 1
    elseif command == 'PUBLISH' then
        return server.call('RPUSH', '{PUBLISHED}', key, ...)
    elseif command == 'SET' and select('#', ...) > 1 then
        error('SET with a time to live has no virtual clock yet')
    end
    return server.call(command, key, ...)
end
"""


class Mutant(NamedTuple):
    """A fault in a script: in the file `lua/<file>.lua`, the line `old` is `new`."""

    name: str
    file: str
    old: str
    new: str

    def apply(self, source: str) -> str:
        """The source with this fault; AssertionError when the line is not there, or is there twice."""
        lines = source.splitlines()
        found = [number for number, line in enumerate(lines) if line.strip() == self.old]
        assert len(found) == 1, f"{self.name}: {self.file}.lua has {len(found)} lines like this, not one: {self.old}"
        lines[found[0]] = self.new
        return "\n".join(lines)


@contextmanager
def virtual_time(mutant: Mutant | None = None) -> Iterator[None]:
    """Scripts that are registered in this block run by the virtual clock, with this fault."""
    read = scripts._read

    def mutated(name: str) -> str:
        return mutant.apply(read(name)) if mutant and name == mutant.file else read(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts, "_KEYS", scripts._KEYS + _PREAMBLE)
        patch.setattr(scripts, "_read", mutated)
        scripts.compose.cache_clear()
        try:
            yield
        finally:
            scripts.compose.cache_clear()


def set_clock(redis: Redis, now: float) -> None:
    """Move the clock, and delete what has expired by then."""
    expired = redis.zrange(EXPIRY, "-inf", now, byscore=True)  # type: ignore[arg-type]
    with redis.pipeline() as pipe:
        pipe.set(NOW, now)
        if expired:
            pipe.delete(*expired)
            pipe.zrem(EXPIRY, *expired)
        pipe.execute()
