"""Every word, colour and list that the user sees."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click

from denzel.backends.base import BuildStep
from denzel.errors import DenzelError
from denzel.project import Project
from denzel.services import Service, State, Status, WorkerReport
from denzel.settings import Settings

_COLOURS = {State.UP: "green", State.ERROR: "red", State.DOWN: "red"}


def say(text: str) -> None:
    click.echo(text)


def scaffolded(project: Project) -> None:
    name = project.root.name
    click.echo(f"Successfully built {name} project skeleton")
    click.echo(f"Next: cd {name}, edit app/logic/pipeline.py, then denzel launch")


def launched(settings: Settings) -> None:
    click.echo(f"API:       http://{_reachable(settings.api_host)}:{settings.api_port}/info")
    click.echo(f"Dashboard: http://{_reachable(settings.monitor_host)}:{settings.monitor_port}")


def error(problem: DenzelError) -> None:
    """The one shape of an error: what others said, what is wrong, what to do."""
    if problem.detail:
        click.echo(problem.detail, err=True)
        click.echo(err=True)
    click.echo(f"{click.style('Error:', fg='red')} {problem}", err=True)
    if problem.hint:
        click.echo(f"{click.style('Hint:', fg='yellow')} {problem.hint}", err=True)


def shown_status(seen: Status) -> None:
    click.echo("\n".join(_status_lines(seen)))


def shown_status_json(seen: Status | None) -> None:
    if seen is None:
        click.echo(json.dumps({"launched": False}))
        return
    services = {
        service.value: {"state": report.state.value} | ({"port": report.port} if report.port else {})
        for service, report in seen.services.items()
    }
    worker = {"name": seen.worker.name, "state": seen.worker.state.value, "cause": seen.worker.cause}
    click.echo(json.dumps({"launched": True, "ready": seen.ready, "services": services, "workers": [worker]}))


def shown_live_status(seen: Iterable[Status]) -> None:
    """Each status in the place of the one before, where the screen allows it; until Ctrl-C."""
    shown = ""
    with _until_interrupted():
        for current in seen:
            text = "\n".join(_status_lines(current))
            if text != shown:
                if shown and sys.stdout.isatty():
                    click.echo(f"\033[{shown.count(chr(10)) + 1}A\033[J", nl=False)
                click.echo(text)
            shown = text


def lines(text: Iterable[str]) -> None:
    """Lines as they come, until they end or Ctrl-C."""
    with _until_interrupted():
        for line in text:
            click.echo(line)


def interrupted() -> None:
    click.echo("Interrupted. What is up now: denzel status", err=True)


def confirm(question: str) -> bool:
    try:
        return click.confirm(question)
    except click.Abort:
        click.echo("No answer. To go on without being asked, pass --yes.", err=True)
        return False


class Watching:
    """Tells of a long command: its phases, the steps of the build, and each service as it comes up."""

    def __init__(self) -> None:
        self._seen: dict[Service | str, State] = {}
        self._step = ""

    def doing(self, text: str) -> None:
        click.echo(f"{text} ...")

    def note(self, text: str) -> None:
        click.echo(text)

    def built(self, step: BuildStep) -> None:
        if step.text != self._step:
            click.echo(f"    {step.text}")
        self._step = step.text

    def saw(self, status: Status) -> None:
        for service, report in status.services.items():
            if self._seen.get(service) is not report.state:
                click.echo(_service_line(service, report.state, report.port))
            self._seen[service] = report.state
        if self._seen.get(status.worker.name) is not status.worker.state:
            click.echo(_worker_line(status.worker))
        self._seen[status.worker.name] = status.worker.state


def _status_lines(seen: Status) -> list[str]:
    services = [_service_line(service, report.state, report.port) for service, report in seen.services.items()]
    return ["Services:", *services, _worker_line(seen.worker)]


def _service_line(service: Service, state: State, port: int | None) -> str:
    where = f" [ Port: {port} ]" if port and state is State.UP else ""
    return f"    {service.value} - {_styled(state)}{where}"


def _worker_line(worker: WorkerReport) -> str:
    name = "all" if worker.state is State.LOADING else worker.name
    cause = f" [ {worker.cause} ]" if worker.cause else ""
    return f"Worker: {name} - {_styled(worker.state)}{cause}"


def _styled(state: State) -> str:
    return click.style(state.value, fg=_COLOURS.get(state, "yellow"))


def _reachable(host: str) -> str:
    return "localhost" if host in ("0.0.0.0", "127.0.0.1") else host


@contextmanager
def _until_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo()
