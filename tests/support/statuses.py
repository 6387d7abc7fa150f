"""What `read_status` returns, for tests that need a status and no project."""

from __future__ import annotations

from denzel.services import Service, ServiceReport, State, Status, WorkerReport

NAME = "worker@iris"


def status(worker: State = State.UP, *, cause: str = "", **services: State) -> Status:
    """Everything up, but for what is said."""
    ports = {Service.API: 8000, Service.MONITOR: 5555}
    return Status(
        services={
            service: ServiceReport(state=services.get(service.value, State.UP), port=ports.get(service))
            for service in Service
        },
        worker=WorkerReport(name=NAME, state=worker, cause=cause),
    )
