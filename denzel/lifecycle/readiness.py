"""Wait for started services: until the model is loaded, or ServiceFailed with the cause."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import NoReturn

from denzel.backends.base import Backend
from denzel.errors import CommandFailed, ServiceFailed, ServiceNotRunning
from denzel.services import DIED_LOADING, Service, State, Status

#: Seconds that a service may be DOWN while all are being started.
_DOWN_LIMIT = 10

#: Reads of a failing worker's status without a cause before the wait is given up.
_MAX_WITHOUT_CAUSE = 6

#: Lines of a failing service's log to show.
_LOG_TAIL = 20

#: The serving code's exception for functions that cannot be called as they are.
_CONTRACT = "ContractError"

#: Returns the project's status; None when it is not launched, or no longer.
StatusReader = Callable[[], Status | None]


def wait_until_ready(
    backend: Backend,
    read_status: StatusReader,
    on_status: Callable[[Status], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Read the status, passing each to `on_status`, until the model is loaded; raises ServiceFailed when it fails."""
    down_since: float | None = None
    without_cause = 0
    while True:
        status = read_status()
        if status is None:
            raise ServiceFailed("The services were removed while they started.", hint="denzel launch")
        on_status(status)
        if status.ready:
            if fault := _fault_of_api(backend):
                _raise_failed(backend, Service.API, f"The api refuses every request: {fault}.")
            return
        # A worker that dies is restarted again and again, and may be about to report the cause.
        without_cause += _lacks_cause(status)
        if not _lacks_cause(status) or without_cause > _MAX_WITHOUT_CAUSE:
            raise_failure(backend, status)
        if all(report.state is not State.DOWN for report in status.services.values()):
            down_since = None
        else:
            down_since = clock() if down_since is None else down_since
            if clock() - down_since > _DOWN_LIMIT:
                down = next(service for service, report in status.services.items() if report.state is State.DOWN)
                _raise_failed(backend, down, f"The service {down.value} does not stay up.")
        sleep(0.5)


def _lacks_cause(status: Status) -> bool:
    """True when the worker's service fails, and has not reported anything since its last start."""
    failing = status.services[Service.DENZEL].state is State.ERROR
    return failing and status.worker.state is State.ERROR and not status.worker.cause


def raise_failure(backend: Backend, status: Status, *, detail: str = "") -> None:
    """Raise ServiceFailed when waiting longer is of no use; `detail` is output to show after the service's log."""
    cause = status.worker.cause if status.worker.state is State.ERROR else ""
    if status.services[Service.DENZEL].state is State.ERROR and status.worker.state is State.LOADING:
        # With MODEL_SHARING=fork, the process that loads the model is the one that would report.
        cause = DIED_LOADING
    if cause:
        kind, _, violation = cause.partition(": ")
        failed = (
            f"pipeline.py cannot be used: {violation}"
            if kind == _CONTRACT
            else f"The model could not be loaded: {cause}"
        )
        _raise_failed(backend, Service.DENZEL, f"{failed.removesuffix('.')}.", hint=status.worker.hint or _hint(cause))
    for service, report in status.services.items():
        if report.state is State.ERROR:
            _raise_failed(backend, service, f"The service {service.value} does not come up.", detail=detail)


def _raise_failed(backend: Backend, service: Service, message: str, *, hint: str = "", detail: str = "") -> NoReturn:
    tail = "\n".join(backend.logs([service], tail=_LOG_TAIL))
    raise ServiceFailed(
        message,
        hint=hint or f"The whole log: denzel logs --service {service.value}. When fixed: denzel restart",
        detail="\n".join(filter(None, (tail, detail))),
    )


def _fault_of_api(backend: Backend) -> str:
    """The reason why the api cannot use the pipeline, by its own report; empty when it can, or reports nothing."""
    try:
        answer = json.loads(backend.execute(Service.API, ["bash", "entrypoints/health.sh", "ready"]))
        return str(answer.get("pipeline", ""))
    except (CommandFailed, ServiceNotRunning, ValueError, AttributeError):
        # A project of an earlier release has no such report.
        return ""


def _hint(cause: str) -> str:
    """The hint where the worker gave none: its process died, or the project is of an earlier release."""
    if "MODEL_SHARING=process" in cause:
        # The worker has refused a model that no forked process could use.
        return "Set MODEL_SHARING=process in .env, then: denzel restart"
    kind = cause.partition(":")[0]
    if kind in ("ModuleNotFoundError", "ImportError"):
        return "Add the package to requirements.txt, then: denzel updatereqs"
    if cause.startswith((DIED_LOADING, "load_model ended its process")):
        return (
            "Memory may have run out: set a lower WORKER_CONCURRENCY in .env. Or load_model itself ended it: denzel"
            " logs --service denzel. Then: denzel restart"
        )
    if kind == "FileNotFoundError":
        return "Put the file into app/assets (paths are relative to the project folder), then: denzel restart"
    return "Fix app/logic/pipeline.py, then: denzel restart"
