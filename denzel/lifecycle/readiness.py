"""The wait for services that were started: until the model is loaded, or why it will not be."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn

from denzel.backends.base import Backend
from denzel.errors import ServiceFailed
from denzel.services import DIED_LOADING, Service, State, Status

#: Seconds that a service may be DOWN while all are being started.
_DOWN_FOR = 10

#: How often a service that fails may have said nothing before it is given up.
_SILENT_LOOKS = 6

#: Lines of a failing service's log that are shown.
_LOG_TAIL = 20

#: Reads the status; None when the project is not launched, or no longer.
Look = Callable[[], Status | None]


def wait_until_ready(
    backend: Backend,
    look: Look,
    saw: Callable[[Status], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Look until the model is loaded, telling `saw` each time; raises ServiceFailed when that will not come to be."""
    down_since: float | None = None
    silent = 0
    while True:
        status = look()
        if status is None:
            raise ServiceFailed("The services were removed while they started.", hint="denzel launch")
        saw(status)
        if status.ready:
            return
        # A worker that dies is started again and again, and may be about to say why.
        silent += _fails_silently(status)
        if not _fails_silently(status) or silent > _SILENT_LOOKS:
            raise_failure(backend, status)
        if all(report.state is not State.DOWN for report in status.services.values()):
            down_since = None
        else:
            down_since = clock() if down_since is None else down_since
            if clock() - down_since > _DOWN_FOR:
                down = next(service for service, report in status.services.items() if report.state is State.DOWN)
                _raise_failed(backend, down, f"The service {down.value} does not stay up.")
        sleep(0.5)


def _fails_silently(status: Status) -> bool:
    """Whether the worker's service fails, and has not said anything since it was started last."""
    failing = status.services[Service.DENZEL].state is State.ERROR
    return failing and status.worker.state is State.ERROR and not status.worker.cause


def raise_failure(backend: Backend, status: Status, *, said: str = "") -> None:
    """Raise ServiceFailed when something will not come up by waiting; `said` is what is known beside its log."""
    cause = status.worker.cause if status.worker.state is State.ERROR else ""
    if status.services[Service.DENZEL].state is State.ERROR and status.worker.state is State.LOADING:
        # With MODEL_SHARING=fork, whoever loads the model is who would report.
        cause = DIED_LOADING
    if cause:
        _raise_failed(backend, Service.DENZEL, f"The model could not be loaded: {cause}.", hint=_hint(cause))
    for service, report in status.services.items():
        if report.state is State.ERROR:
            _raise_failed(backend, service, f"The service {service.value} does not come up.", said=said)


def _raise_failed(backend: Backend, service: Service, message: str, *, hint: str = "", said: str = "") -> NoReturn:
    tail = "\n".join(backend.logs([service], tail=_LOG_TAIL))
    raise ServiceFailed(
        message,
        hint=hint or f"The whole log: denzel logs --service {service.value}. When mended: denzel restart",
        detail="\n".join(filter(None, (tail, said))),
    )


def _hint(cause: str) -> str:
    kind = cause.partition(":")[0]
    if kind in ("ModuleNotFoundError", "ImportError"):
        return "Add the package to requirements.txt, then: denzel updatereqs"
    if cause.startswith((DIED_LOADING, "load_model ended its process")):
        return (
            "Memory may have run out: set a lower WORKER_CONCURRENCY in .env. Or load_model itself ends it: denzel"
            " logs --service denzel. Then: denzel restart"
        )
    if kind == "FileNotFoundError":
        return "Put the file into app/assets (paths are relative to the project folder), then: denzel restart"
    return "Mend app/logic/pipeline.py, then: denzel restart"
