"""scripts.py: complete scripts, whose headers name keys, arguments and answer, registered in Redis as they are."""

from __future__ import annotations

import re

import pytest
from redis import Redis
from support.check_lua import names

from app.serving.store import scripts


@pytest.mark.parametrize("name", names())
def test_a_script_names_its_keys_arguments_and_answer(name: str) -> None:
    header = (scripts.FOLDER / f"{name}.lua").read_text().partition("\n\n")[0]
    assert [line for line in header.splitlines() if not line.startswith(("-- ", "#!lua "))] == []
    assert re.findall(r"^-- (KEYS|ARGV|Answer): \S", header, re.MULTILINE) == ["KEYS", "ARGV", "Answer"]


@pytest.mark.parametrize("name", names())
def test_a_script_is_composed_with_each_include_once(name: str, redis: Redis) -> None:
    source = scripts.compose(name)
    functions = re.findall(r"^local function (\w+)", source, re.MULTILINE)
    assert len(functions) == len(set(functions))
    assert redis.script_load(source) == scripts.register(redis, name).sha


def test_only_what_brings_new_tasks_or_output_stops_at_the_memory_limit() -> None:
    without = [name for name in names() if not scripts.compose(name).startswith("#!lua flags=allow-oom\n")]
    assert without == ["tasks/accept", "tasks/report"]
