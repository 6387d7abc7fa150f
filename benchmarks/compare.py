"""Comparison of denzel with other model servers, on this machine, in one run; see benchmarks/README.md.

Usage: python benchmarks/compare.py [--systems NAME ...] [--measure NAME ...] [--quick] [--write PAGE]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
from denzel_project import Denzel, Project
from measurements import RUNNING_MEASURES, Effort, memory
from peer import peers
from programs import CACHE, Failed
from report import around, tables, write_between
from system import System

from denzel.errors import DenzelError

RESULTS = Path(__file__).parent / "results"
MEASURES = ("start", *RUNNING_MEASURES, "memory")


def main() -> None:
    options = parse()
    if options.write:
        around(options.write, "compare")  # Better now than after an hour.
    # SIGTERM shuts down what was started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    results = json.loads(options.show.read_text()) if options.show else measure(options)
    print(tables(results))
    if options.write:
        write_between(options.write, "compare", tables(results))
        print(f"Written into {options.write}.", file=sys.stderr)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every system, round by round, and save the results after each."""
    # The projects' packages come from the cache, too.
    os.environ.setdefault("UV_CACHE_DIR", str(CACHE / "uv"))
    effort = Effort(seconds=1, warm_up=0.5, paced=2) if options.quick else Effort(seconds=options.seconds)
    rounds = 1 if options.quick else options.rounds
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="denzel-benchmarks-") as folder:
        chosen = [system for system in systems(Path(folder)) if not options.systems or system.name in options.systems]
        results: dict[str, Any] = {
            "machine": machine.facts(),
            "effort": {"seconds": effort.seconds, "paced": effort.paced, "rounds": rounds},
            "systems": {
                system.name: {"title": system.title, "version": system.versions, "rounds": [], "failures": {}}
                for system in chosen
            },
        }
        path = RESULTS / f"compare-{results['machine']['date']}.json"
        try:
            ready = [system for system in chosen if attempt(results, system, "prepare", system.prepare)]
            for number in range(rounds):
                for system in ready:
                    say(f"round {number + 1} of {rounds}: {system.name}")
                    one = one_round(results, system, options.measure or MEASURES, effort)
                    results["systems"][system.name]["rounds"].append(one)
                    summarize(results["systems"][system.name])
                    path.write_text(json.dumps(results, indent=1) + "\n")
        finally:
            for system in chosen:
                system.remove()
    path.with_suffix(".md").write_text(tables(results) + "\n", encoding="utf-8")
    say(f"The figures are in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name}.")
    return results


def systems(work: Path) -> list[System]:
    """All systems."""
    projects = [Project("local", work), Project("docker", work)]
    return [*(Denzel(project, batch=batch) for project in projects for batch in (True, False)), *peers(work)]


def one_round(results: dict[str, Any], system: System, chosen: list[str], effort: Effort) -> dict[str, Any]:
    """Measure one start of a system and what runs then, and its memory in another start."""
    found: dict[str, Any] = {}

    def run() -> None:
        with system.running() as seconds:
            found["start"] = seconds
            for name, work in RUNNING_MEASURES.items():
                if name in chosen:
                    attempt(results, system, name, lambda work=work: found.update(work(system, effort)))

    if set(chosen) & {"start", *RUNNING_MEASURES}:
        attempt(results, system, "start", run)
    if "memory" in chosen:
        attempt(results, system, "memory", lambda: found.update(memory(system, effort)))
    return found


def attempt(results: dict[str, Any], system: System, name: str, work: Callable[[], object]) -> bool:
    """Run a measurement; a failure is recorded in the system's row, and the others go on."""
    try:
        work()
    except (Failed, DenzelError, OSError) as error:
        say(f"{system.name}: {name}: {error}")
        results["systems"][system.name]["failures"][name] = str(error)
        return False
    return True


def summarize(system: dict[str, Any]) -> None:
    """Add the median of each number, over the rounds that have it."""
    names = {name for one in system["rounds"] for name, value in one.items() if isinstance(value, int | float)}
    system["median"] = {
        name: statistics.median(one[name] for one in system["rounds"] if one.get(name) is not None)
        for name in sorted(names)
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [system.name for system in systems(Path("unused"))]
    parser.add_argument("--systems", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--measure", nargs="+", choices=MEASURES, metavar="NAME", help=", ".join(MEASURES))
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many is shown; 3 by default")
    parser.add_argument("--seconds", type=float, default=4, help="that one load lasts; 4 by default")
    parser.add_argument("--quick", action="store_true", help="one round of short loads, to see that all of it works")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page, between its markers")
    parser.add_argument("--show", type=Path, metavar="JSON", help="measure nothing: show the figures of an earlier run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
