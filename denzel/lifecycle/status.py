"""What is up: the states of the services and the reports of the workers, merged into one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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

# In one go: a worker that begins a new life in between would be taken for one that ended.
_READ = "return {redis.call('HMGET', KEYS[1], 'state', 'cause'), redis.call('HVALS', KEYS[2])}"

# The workers' own words, and ours.
_WORKER_STATES = {"LOADING": State.LOADING, "UP": State.UP, "ERROR": State.ERROR}


def read_status(project: Project, backend: Backend, *, name: str) -> Status | None:
    """The status of the project called `name`; None when it is not launched and no command is launching it."""
    building = lock.announced(project.activity_file)
    # First: a worker that dies, and is started again, soon takes back what its last life has said.
    reported = _reported(backend, worker_name(name))
    services = backend.services()
    if building is None and not backend.is_launched():
        return None
    worker = _worker(reported, services, worker_name(name))
    if building is not None:
        services = {
            service: replace(report, state=building) if _waits(service, report, building) else report
            for service, report in services.items()
        }
    return Status(services=services, worker=worker)


def _waits(service: Service, report: ServiceReport, announced: State) -> bool:
    """Whether what was announced is what this service waits for: to be made, or for its requirements."""
    return report.state is State.DOWN if announced is State.STARTING else service.carries_requirements


def _reported(backend: Backend, name: str) -> tuple[str | None, str | None]:
    """The state and the cause that the worker has reported."""
    try:
        (state, cause), loads = backend.redis("EVAL", _READ, "2", worker_key(name), loads_key(name))
    except ServiceNotRunning:
        # Redis is down, starting or failing, as its own state says.
        return None, None
    # Between two lives nobody reports, and whoever was loading the model has not come to an end with it.
    if (state == "LOADING" and "DIED" in loads) or (state is None and loads):
        return "ERROR", DIED_LOADING
    return state, cause


def _worker(
    reported: tuple[str | None, str | None], services: Mapping[Service, ServiceReport], name: str
) -> WorkerReport:
    if State.DOWN in (services[Service.DENZEL].state, services[Service.REDIS].state):
        return WorkerReport(name=name, state=State.DOWN)
    state, cause = reported
    if state is None:
        failing = services[Service.DENZEL].state is State.ERROR
        return WorkerReport(name=name, state=State.ERROR if failing else State.LOADING)
    return WorkerReport(name=name, state=_WORKER_STATES[state], cause=cause or "")
