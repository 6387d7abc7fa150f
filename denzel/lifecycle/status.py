"""A project's status: the states of its services and the report of its worker, merged into one value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from denzel.backends.base import Backend
from denzel.errors import ServiceNotRunning
from denzel.project import lock
from denzel.project.folder import Project
from denzel.services import (
    DIED_LOADING,
    Service,
    ServiceReport,
    State,
    Status,
    WorkerReport,
    loads_key,
    worker_key,
    worker_name,
)

# In one step: a worker that restarts between two reads would be taken for one that ended.
_READ = "return {redis.call('HMGET', KEYS[1], 'state', 'cause', 'warnings'), redis.call('HVALS', KEYS[2])}"

# The serving code's words for a worker's state, and ours.
_WORKER_STATES = {"LOADING": State.LOADING, "UP": State.UP, "ERROR": State.ERROR}


def read_status(project: Project, backend: Backend, *, name: str) -> Status | None:
    """The status of the project called `name`; None when it is not launched and no command is launching it."""
    building = lock.read_state(project.lock_file)
    # Read first: a worker that dies and is restarted soon overwrites the report of the process before it.
    reported = _reported(backend, worker_name(name))
    services = backend.services()
    if building is None and not backend.is_launched():
        return None
    worker = _worker(*reported, services, worker_name(name))
    if building is not None:
        services = {
            service: replace(report, state=building) if _waits(service, report, building) else report
            for service, report in services.items()
        }
    return Status(services=services, worker=worker)


def _waits(service: Service, report: ServiceReport, building: State) -> bool:
    """True when the running command's state is this service's too: it is to be created, or to get its requirements."""
    return report.state is State.DOWN if building is State.STARTING else service.carries_requirements


def _reported(backend: Backend, name: str) -> tuple[str | None, str | None, str | None]:
    """The state, the cause and the warnings that the worker has reported; None for each without a report."""
    try:
        (state, cause, warnings), loads = backend.redis("EVAL", _READ, "2", worker_key(name), loads_key(name))
    except ServiceNotRunning:
        # Redis is down, starting or failing, as its own state shows.
        return None, None, None
    # No report, but a host still listed as loading: the process that loaded the model died before it was done.
    if (state == "LOADING" and "DIED" in loads) or (state is None and loads):
        return "ERROR", DIED_LOADING, None
    return state, cause, warnings


def _worker(
    state: str | None,
    cause: str | None,
    warnings: str | None,
    services: Mapping[Service, ServiceReport],
    name: str,
) -> WorkerReport:
    if State.DOWN in (services[Service.DENZEL].state, services[Service.REDIS].state):
        return WorkerReport(name=name, state=State.DOWN)
    if state is None:
        failing = services[Service.DENZEL].state is State.ERROR
        return WorkerReport(name=name, state=State.ERROR if failing else State.LOADING)
    # Projects of earlier releases report neither a hint nor warnings.
    cause_line, _, hint = (cause or "").partition("\n")
    read: dict[str, Any] = json.loads(warnings) if warnings else {"shown": (), "more": 0}
    return WorkerReport(
        name=name,
        state=_WORKER_STATES[state],
        cause=cause_line,
        hint=hint,
        warnings=tuple(read["shown"]),
        more_warnings=read["more"],
    )
