"""Measurements of a running system, each as numbers by name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from programs import Failed
from system import Request, System
from workload import Workload

#: Concurrent clients, for synchronous answers and for callbacks.
CLIENTS = (1, 16, 64)
ACCEPTING = 16

#: Requests of one measurement: a system that accepts faster than it completes fills its queue.
BACKLOG = 8000

#: Seconds without an answer after which a system is given up.
HANG_TIMEOUT = 60


@dataclass(frozen=True, kw_only=True)
class Effort:
    """The duration of each measurement, in seconds."""

    seconds: float = 4
    warm_up: float = 1
    paced: float = 10


def run_load(request: Request, port: int, **fields: Any) -> dict[str, Any]:
    """The measurements of one workload, in a process of its own; raises Failed."""
    workload = Workload(
        port=port,
        path=request.path,
        body=json.dumps(request.body),
        headers=dict(request.headers),
        answer=request.answer,
        callback=request.callback,
        statuses=request.statuses,
        callback_host=request.callback_host,
        **fields,
    )
    try:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "load.py")],
            input=json.dumps(dataclasses.asdict(workload)),
            capture_output=True,
            text=True,
            timeout=workload.seconds + workload.warm_up + 2 * workload.drain_timeout + HANG_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"no answer for {HANG_TIMEOUT} seconds") from None
    if done.returncode != 0:
        raise Failed(f"the load ended: {' '.join(done.stderr.splitlines()[-1:])}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def answers(system: System, effort: Effort) -> dict[str, Any]:
    """Synchronous answers a second, for one client and for many."""
    found: dict[str, Any] = {}
    for clients in CLIENTS:
        one = run_load(
            system.sync,
            system.port,
            kind="answers",
            clients=clients,
            seconds=effort.seconds,
            warm_up=effort.warm_up,
        )
        found[f"sync_{clients}"] = one["per_second"]
        found[f"sync_{clients}_p50"] = one["p50"]
        found[f"sync_{clients}_p99"] = one["p99"]
        found |= _errors(f"sync_{clients}", one)
    return found


def callbacks(system: System, effort: Effort) -> dict[str, Any]:
    """Accepted and completed requests a second."""
    if system.accept is None:
        return {}
    one = run_load(
        system.accept,
        system.port,
        kind="callbacks",
        clients=ACCEPTING,
        seconds=effort.seconds,
        warm_up=effort.warm_up,
        limit=BACKLOG,
    )
    return {
        "accepted": one["accepted_per_second"],
        "completed": one["completed_per_second"],
        "lost": one["accepted"] - one["completed"],
        **_errors("callbacks", one),
    }


def paced(system: System, effort: Effort) -> dict[str, Any]:
    """Milliseconds from a request to its callback, at 50 a second; again with a slow receiver for one in ten."""
    found: dict[str, Any] = {}
    if system.accept is None:
        return found
    for name, slow_one_in in (("end", 0), ("slow", 10)):
        one = run_load(
            system.accept,
            system.port,
            kind="paced",
            seconds=effort.paced,
            warm_up=effort.warm_up,
            slow_one_in=slow_one_in,
            drain_timeout=30,
        )
        found[f"{name}_p50"] = one["p50"]
        found[f"{name}_p99"] = one["p99"]
        found[f"{name}_lost"] = one["asked"] - one["completed"]
        found |= _errors(name, one)
    return found


def memory(system: System, effort: Effort) -> dict[str, Any]:
    """Megabytes of all processes, with a model of 512 MB in two processes that predict; and shared by both."""
    found: dict[str, Any] = {}
    for name, shared in (("memory", False), ("memory_shared", True)):
        if shared and not system.shares:
            continue
        with system.running(large=True, shared=shared):
            run_load(system.sync, system.port, kind="answers", clients=16, seconds=1, warm_up=0.5)
            services = settled(system.memory)
        found[name] = sum(services.values())
        found[f"{name}_without_monitor"] = sum(size for service, size in services.items() if service != "monitor")
        found |= {f"{name}_{service}": size for service, size in services.items()}
    return found


def settled(read: Callable[[], dict[str, float]], *, within: float = 20) -> dict[str, float]:
    """The memory once it has changed by less than 1 % within two seconds."""
    deadline = time.monotonic() + within
    before = read()
    while True:
        time.sleep(2)
        now = read()
        if abs(sum(now.values()) - sum(before.values())) < 0.01 * sum(now.values()) or time.monotonic() > deadline:
            return now
        before = now


def _errors(name: str, one: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}_errors": sum(one["errors"].values()), f"{name}_error_kinds": ", ".join(one["errors"])}


#: Measurements of a running system; memory is measured in a start of its own, and the start at each.
RUNNING_MEASURES = {"answers": answers, "callbacks": callbacks, "paced": paced}
