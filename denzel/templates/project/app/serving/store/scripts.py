"""Lua scripts that run in Redis as one step: loaded from `lua/`, and composed from their includes."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from redis import Redis
from redis.commands.core import Script

from app.serving.store import keys

FOLDER = Path(__file__).with_name("lua")

_INCLUDE = re.compile(r"^-- @include (\w+)$", re.MULTILINE)

# The constants of keys.py, under their own names.
_KEYS = "\n".join(
    f"local {name} = '{value}'" for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)
)


@cache
def compose(name: str) -> str:
    """The whole source of the script `<folder>/<name>.lua`: its includes, each once, then itself."""
    source = _read(name)
    # Scripts flagged `allow-oom` run at Redis' memory limit too. accept.lua has no flags: its first write fails there,
    # with redis.exceptions.OutOfMemoryError.
    flags, _, body = source.partition("\n") if source.startswith("#!lua") else ("", "", source)
    parts = [flags] if flags else []
    return "\n".join([*parts, _KEYS, *map(_read, _includes(source, [])), body])


def register(redis: Redis, name: str) -> Script:
    """The composed script as a callable of redis-py; nothing is sent before its first call."""
    return redis.register_script(compose(name))


def _read(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def _includes(source: str, found: list[str]) -> list[str]:
    """The names that `source` includes, directly or not, each after those that it needs itself."""
    for name in _INCLUDE.findall(source):
        include = f"include/{name}"
        if include not in found:
            _includes(_read(include), found)
            found.append(include)
    return found
