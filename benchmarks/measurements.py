"""What is measured of a running system, each as numbers by name."""

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

from order import Order
from programs import Failed
from system import Ask, System

#: Clients at once, of synchronous answers and of callbacks.
CLIENTS = (1, 16, 64)
ACCEPTING = 16

#: Tasks that one measurement may leave waiting: a system that accepts faster than it completes fills its queue.
BACKLOG = 8000

#: Seconds after which a system that does not answer is given up.
HANGS_AFTER = 60


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long each measurement takes, in seconds."""

    seconds: float = 4
    warm_up: float = 1
    paced: float = 10


def carry_out(ask: Ask, port: int, **fields: Any) -> dict[str, Any]:
    """What one order measured, by a process of its own; raises Failed."""
    order = Order(
        port=port,
        path=ask.path,
        body=json.dumps(ask.body),
        headers=dict(ask.headers),
        answer=ask.answer,
        callback=ask.callback,
        statuses=ask.statuses,
        callback_host=ask.callback_host,
        **fields,
    )
    try:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "load.py")],
            input=json.dumps(dataclasses.asdict(order)),
            capture_output=True,
            text=True,
            timeout=order.seconds + order.warm_up + 2 * order.patience + HANGS_AFTER,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"no answer for {HANGS_AFTER} seconds") from None
    if done.returncode != 0:
        raise Failed(f"the load ended: {' '.join(done.stderr.splitlines()[-1:])}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def answers(system: System, effort: Effort) -> dict[str, Any]:
    """Synchronous answers a second, at one client and at many."""
    found: dict[str, Any] = {}
    for clients in CLIENTS:
        one = carry_out(
            system.sync,
            system.port,
            work="answers",
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
    """Requests accepted a second, and called back."""
    if system.accept is None:
        return {}
    one = carry_out(
        system.accept,
        system.port,
        work="callbacks",
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
    """Milliseconds from a request to its callback, at 50 a second; then with a slow receiver for one in ten."""
    found: dict[str, Any] = {}
    if system.accept is None:
        return found
    for name, slow_one_in in (("end", 0), ("slow", 10)):
        one = carry_out(
            system.accept,
            system.port,
            work="paced",
            seconds=effort.paced,
            warm_up=effort.warm_up,
            slow_one_in=slow_one_in,
            patience=30,
        )
        found[f"{name}_p50"] = one["p50"]
        found[f"{name}_p99"] = one["p99"]
        found[f"{name}_lost"] = one["asked"] - one["completed"]
        found |= _errors(name, one)
    return found


def memory(system: System, effort: Effort) -> dict[str, Any]:
    """Megabytes of all processes, with a model of 512 MB in two that predict; and with one model for both."""
    found: dict[str, Any] = {}
    for name, shared in (("memory", False), ("memory_shared", True)):
        if shared and not system.shares:
            continue
        with system.running(large=True, shared=shared):
            carry_out(system.sync, system.port, work="answers", clients=16, seconds=1, warm_up=0.5)
            services = settled(system.memory)
        found[name] = sum(services.values())
        found[f"{name}_without_monitor"] = sum(size for service, size in services.items() if service != "monitor")
        found |= {f"{name}_{service}": size for service, size in services.items()}
    return found


def settled(read: Callable[[], dict[str, float]], *, within: float = 20) -> dict[str, float]:
    """The memory once it has changed by less than a hundredth for two seconds."""
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


#: The measurements of a system that runs; memory starts it anew, and the start is measured at each.
OF_A_RUNNING_SYSTEM = {"answers": answers, "callbacks": callbacks, "paced": paced}
