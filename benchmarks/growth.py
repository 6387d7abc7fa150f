"""Growth of cost with queued tasks, the size of requests and the number of processes, as charts.

Usage: python benchmarks/growth.py [--backend docker] [--measure NAME ...] [--quick] [--write PAGE]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
from chart import draw
from denzel_project import Project
from growth_report import HELD, SERVICES, charts, tables
from measurements import run_load, settled
from programs import CACHE, Failed
from report import around, write_between
from system import FLOWERS, REQUEST, REQUEST_WITH_CALLBACK, START_TIMEOUT, Request

from denzel.errors import DenzelError

RESULTS = Path(__file__).parent / "results"

#: Bytes of all requests of one size.
MAX_BYTES = 512 * 2**20
SIZES = {"1 KB": 2**10, "100 KB": 100 * 2**10, "5 MB": 5 * 2**20}


def main() -> None:
    options = parse()
    if options.write:
        around(options.write, "growth")  # Better now than after an hour.
    # SIGTERM shuts down what was started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    results = json.loads(options.show.read_text()) if options.show else measure(options)
    page = tables(results)
    print(page)
    folder = options.write.parent if options.write else RESULTS
    for name, panels in charts(results).items():
        title = "; ".join(panel.title for panel in panels)
        (folder / f"growth-{name}.svg").write_text(draw(panels, title=title), encoding="utf-8")
    if options.write:
        write_between(options.write, "growth", page)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Take the chosen measurements, in one project after another."""
    os.environ.setdefault("UV_CACHE_DIR", str(CACHE / "uv"))
    RESULTS.mkdir(exist_ok=True)
    results: dict[str, Any] = {"machine": machine.facts(), "backend": options.backend}
    path = RESULTS / f"growth-{results['machine']['date']}.json"
    for name, work in MEASURES.items():
        if options.measure and name not in options.measure:
            continue
        with tempfile.TemporaryDirectory(prefix="denzel-benchmarks-") as folder:
            project = Project(options.backend, Path(folder))
            try:
                project.make()
                results[name] = work(project, quick=options.quick)
            except (Failed, DenzelError, OSError) as error:
                say(f"{name} failed: {error}")
                results.setdefault("failures", {})[name] = str(error)
            finally:
                project.remove()
        path.write_text(json.dumps(results, indent=1) + "\n")
    return results


def waiting(project: Project, *, quick: bool) -> dict[str, Any]:
    """Measure accepted requests per second, and memory, while so many tasks wait for a blocked worker."""
    found: dict[str, Any] = {}
    accepting = replace(project.async_request, body=REQUEST, callback=None)
    there = 0
    with running(project, "held", {"QUEUE_LIMIT": "1000000", "WORKER_CONCURRENCY": "2"}, hold=True):
        for count in (1, 100, 2000) if quick else (1, 1000, 100_000):
            there += send(project, accepting, count - there, clients=1 if count == 1 else 16)
            memory = services(project)
            bursts = [burst(project, accepting, 500) for _ in range(3)]
            there += 3 * 500
            found[f"{count:,}"] = {"accepted": statistics.median(bursts), **memory}
            say(f"{count:,} waiting: {found[f'{count:,}']}")
    return found


def bodies(project: Project, *, quick: bool) -> dict[str, Any]:
    """Measure accepted and completed requests per second, and memory, by the size of a request."""
    found: dict[str, Any] = {}
    with running(project, "single", {"QUEUE_LIMIT": "1000000"}):
        for name, size in SIZES.items():
            one = load(
                project,
                replace(project.async_request, body=padded(REQUEST_WITH_CALLBACK, size)),
                kind="callbacks",
                clients=16,
                seconds=1 if quick else 4,
                warm_up=0.5,
                limit=min(8000, MAX_BYTES // size),
            )
            found[name] = {"accepted": one["accepted_per_second"], "completed": one["completed_per_second"]}
            say(f"{name}: {found[name]} {one['errors'] or ''}")
    with running(project, "held", {"QUEUE_LIMIT": "1000000"}, hold=True):
        for name, size in SIZES.items():
            send(project, replace(project.async_request, body=padded(REQUEST, size), callback=None), HELD, clients=1)
            found[name] |= services(project)
            say(f"{name}: {found[name]}")
    return found


def workers(project: Project, *, quick: bool) -> dict[str, Any]:
    """Measure answers per second of three models, and memory with one of 512 MB, by the number of processes."""
    found: dict[str, Any] = {}
    for count in (1, 2) if quick else (1, 2, 4, 8):
        one = found[str(count)] = {}
        for pipeline in ("single", "batch", "waiting"):
            with running(project, pipeline, {"WORKER_CONCURRENCY": str(count)}):
                seconds = 1 if quick else 4
                done = load(project, project.sync_request, kind="answers", clients=32, seconds=seconds, warm_up=1)
                one[pipeline] = done["per_second"]
        for name, sharing in {"memory": "process", "memory_shared": "fork"}.items():
            if sharing == "fork" and not project.has_setting("MODEL_SHARING"):
                continue
            changes = {"WORKER_CONCURRENCY": str(count)}
            if project.has_setting("MODEL_SHARING"):
                changes["MODEL_SHARING"] = sharing
            with running(project, "large", changes):
                load(project, project.sync_request, kind="answers", clients=16, seconds=1, warm_up=0.5)
                one[name] = sum(services(project).values())
        if project.has_setting("MODEL_SHARING"):
            project.use("single", {"MODEL_SHARING": "process"})
        say(f"{count} processes: {one}")
    return found


MEASURES = {"waiting": waiting, "bodies": bodies, "workers": workers}


@contextmanager
def running(project: Project, pipeline: str, changes: Mapping[str, str], *, hold: bool = False) -> Iterator[None]:
    """Run the project with this pipeline meanwhile; `hold` blocks its predictions."""
    obstacle = project.root / "app" / "assets" / "hold"
    if hold:
        obstacle.touch()
    project.use(pipeline, dict(changes))
    try:
        project.denzel("start")
        deadline = time.monotonic() + START_TIMEOUT
        while not ready(project.api_port):
            if time.monotonic() > deadline:
                raise Failed(f"not ready within {START_TIMEOUT} seconds")
            time.sleep(0.05)
        yield
    finally:
        obstacle.unlink(missing_ok=True)
        project.denzel("stop")


def ready(port: int) -> bool:
    """True when the model is loaded."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def load(project: Project, request: Request, **fields: Any) -> dict[str, Any]:
    return run_load(request, project.api_port, **fields)


def burst(project: Project, request: Request, count: int) -> float:
    """Accepted requests per second, for so many from 16 clients."""
    rate: float = load(project, request, kind="answers", clients=16, seconds=60, warm_up=0, limit=count)["per_second"]
    return rate


def send(project: Project, request: Request, count: int, *, clients: int) -> int:
    """Send so many requests without waiting for their tasks; returns their number."""
    if count > 0:
        done = load(project, request, kind="answers", clients=clients, seconds=600, warm_up=0, limit=count)
        if done["errors"]:
            raise Failed(f"requests were not accepted: {done['errors']}")
    return max(count, 0)


def services(project: Project) -> dict[str, float]:
    """Megabytes of each service."""
    found = settled(project.memory)
    return {service: found.get(service, 0.0) for service in SERVICES}


def padded(request: Mapping[str, Any], size: int) -> dict[str, Any]:
    """A request of so many bytes, with a text beside the flowers."""
    return {**request, "padding": "x" * max(0, size - len(json.dumps(FLOWERS)) - 80)}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("local", "docker"), default="local")
    parser.add_argument("--measure", nargs="+", choices=MEASURES, metavar="NAME", help=", ".join(MEASURES))
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that all of it works")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="put the tables into this page, the charts beside it"
    )
    parser.add_argument("--show", type=Path, metavar="JSON", help="measure nothing: draw the figures of an earlier run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
