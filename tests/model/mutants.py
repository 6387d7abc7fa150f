"""Faults put into the Lua scripts on purpose, all of which the model test must catch: `make mutants` runs them."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from model.machine import run
from model.virtual_time import Mutant, virtual_time
from redis import Redis
from redis.exceptions import ResponseError
from support.redis_server import redis_server

from app.serving.store.connection import connect

FAULTS = Path(__file__).with_name("faults.txt")

# Seeds of random stories, until one of them shows the fault: for most, the first does.
_SEEDS = range(25)


def mutants() -> list[Mutant]:
    """Those of faults.txt, in its order."""
    return list(_parse(FAULTS.read_text(encoding="utf-8")))


def _parse(text: str) -> Iterator[Mutant]:
    for section in text.split("\n== ")[1:]:
        file, *lines = section.strip().splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("- ")]
        for number in starts:
            new = lines[number + 1 : number + 2]
            is_replaced = bool(new) and new[0].startswith("+ ")
            yield Mutant(lines[number - 1], file, lines[number][2:], new[0][2:] if is_replaced else "")


def is_caught(redis: Redis, mutant: Mutant) -> bool:
    """True when the model test finds a counterexample, or Redis refuses what the script does."""
    try:
        with virtual_time(mutant):
            run(redis, _SEEDS)
    except (AssertionError, ResponseError):
        return True
    return False


def survivors(redis: Redis, chosen: Iterable[Mutant]) -> list[Mutant]:
    """The faults that the model test does not find; prints how long each took."""
    missed = []
    for mutant in chosen:
        begun = time.perf_counter()
        caught = is_caught(redis, mutant)
        took = time.perf_counter() - begun
        print(f"{'caught' if caught else 'MISSED'} {took:6.2f} s  {mutant.file}: {mutant.name}", flush=True)
        if not caught:
            missed.append(mutant)
    return missed


def main(words: list[str]) -> int:
    """Run all, or those with one of these words in their file or name; the exit code is 1 when one was missed."""
    chosen = [one for one in mutants() if not words or any(word in f"{one.file}: {one.name}" for word in words)]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as url:
        missed = survivors(connect(url), chosen)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught in {time.perf_counter() - begun:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
