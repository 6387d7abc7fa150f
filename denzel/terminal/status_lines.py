"""Lines of a status: services, the worker, and what its model warned of."""

from __future__ import annotations

import click

from denzel.services import Service, State, Status, WorkerReport
from denzel.terminal.tables import escape

_COLOURS = {State.UP: "green", State.ERROR: "red", State.DOWN: "red"}


def status_lines(status: Status) -> list[str]:
    services = [service_line(service, report.state, report.port) for service, report in status.services.items()]
    return ["Services:", *services, worker_line(status.worker)]


def service_line(service: Service, state: State, port: int | None) -> str:
    where = f" [ Port: {port} ]" if port and state is State.UP else ""
    return f"    {service.value} - {_styled(state)}{where}"


def worker_line(worker: WorkerReport) -> str:
    name = "all" if worker.state is State.LOADING else worker.name
    cause = f" [ {worker.cause} ]" if worker.cause else ""
    return f"Worker: {name} - {_styled(worker.state)}{cause}"


def warning_lines(worker: WorkerReport) -> list[str]:
    """The warnings of load_model; none where there are none."""
    if not worker.warnings:
        return []
    more = [f"    and {worker.more_warnings} more: denzel logworker"] if worker.more_warnings else []
    texts = [f"    {escape(text)}" for text in worker.warnings]
    return [click.style("load_model warned:", fg="yellow"), *texts, *more]


def _styled(state: State) -> str:
    return click.style(state.value, fg=_COLOURS.get(state, "yellow"))
