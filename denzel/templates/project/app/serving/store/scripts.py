"""Steps in Redis that nothing can come between: Lua scripts, and what they share."""

from __future__ import annotations

from redis import Redis
from redis.commands.core import Script

from app.serving.store import keys

# The names of store/keys.py, and the server's clock: seconds since 1970, whatever the clocks of workers say.
_NAMES = "\n".join(
    f"local {name} = '{value}'" for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)
)
_CLOCK = """
local function now()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1000000
end
"""

# One command for many keys or members costs little more than for one; but Lua hands over some thousands at most.
_BULK = """
local function in_bulk(command, key, list)
    for first = 1, #list, 1000 do
        redis.call(command, key, unpack(list, first, math.min(first + 999, #list)))
    end
end
"""


def register(redis: Redis, body: str, *functions: str, when_memory_is_full: bool = True) -> Script:
    """A script of these functions and this body, which may use the names of keys.py, `now()` and `in_bulk()`.

    What takes a task further runs also when Redis is at its memory limit. What brings a new one must not: there it
    may read, and its first write raises redis.exceptions.OutOfMemoryError.
    """
    # Of a script without flags, Redis looks at each command.
    head = "#!lua flags=allow-oom\n" if when_memory_is_full else ""
    return redis.register_script("\n".join((head + _NAMES, _CLOCK, _BULK, *functions, body)))
