"""Terminal output: every text and colour that the commands print, but for tables and figures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from denzel.admin import BulkResult, Callback, QuarantinedTask, UnfinishedTasks
from denzel.backends.base import BuildStep
from denzel.errors import ConfirmationRequired, DenzelError
from denzel.loadtest.bench import metrics
from denzel.loadtest.drill.results import DrillReport
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import Service, State, Status, reachable
from denzel.terminal import figures, tables
from denzel.terminal.status_lines import service_line, status_lines, warning_lines, worker_line
from denzel.terminal.tables import escape
from denzel.text import pluralize

if TYPE_CHECKING:
    from denzel.webhooks.listener import ReceivedCallback

#: Bytes to show of a body that is not JSON.
_MAX_RAW_BODY = 500


def say(text: str) -> None:
    click.echo(text)


def scaffolded(project: Project) -> None:
    name = project.root.name
    click.echo(f"Successfully built {name} project skeleton")
    click.echo(f"Next: cd {name}, edit app/logic/pipeline.py, then")
    click.echo("    denzel launch                  (with Docker)")
    click.echo("    denzel launch --backend local  (without)")


def launched(settings: Settings) -> None:
    click.echo(f"API:       http://{_host_to_type(settings.api_host)}:{settings.api_port}/info")
    click.echo(f"Dashboard: http://{_host_to_type(settings.monitor_host)}:{settings.monitor_port}")


def error(problem: DenzelError) -> None:
    """Print an error on standard error in its one shape: detail, message, hint."""
    if problem.detail:
        click.echo(problem.detail, err=True)
        click.echo(err=True)
    # It may hold ids and reasons that came from outside.
    click.echo(f"{click.style('Error:', fg='red')} {escape(str(problem))}", err=True)
    if problem.hint:
        click.echo(f"{click.style('Hint:', fg='yellow')} {problem.hint}", err=True)


def shown_status(status: Status) -> None:
    click.echo("\n".join(status_lines(status)))


def shown_status_json(status: Status | None) -> None:
    if status is None:
        click.echo(json.dumps({"launched": False}))
        return
    services = {
        service.value: {"state": report.state.value} | ({"port": report.port} if report.port else {})
        for service, report in status.services.items()
    }
    worker = {"name": status.worker.name, "state": status.worker.state.value, "cause": status.worker.cause}
    warnings = {"warnings": list(status.worker.warnings)} if status.worker.warnings else {}
    workers = [worker | warnings]
    click.echo(json.dumps({"launched": True, "ready": status.ready, "services": services, "workers": workers}))


def shown_live_status(statuses: Iterable[Status]) -> None:
    """Print each status that differs from the one before, on a terminal in its place; until Ctrl-C."""
    shown = ""
    with until_interrupted():
        for status in statuses:
            text = "\n".join(status_lines(status))
            if text != shown:
                if shown and sys.stdout.isatty():
                    click.echo(f"\033[{shown.count(chr(10)) + 1}A\033[J", nl=False)
                click.echo(text)
            shown = text


def shown_json(data: Any) -> None:
    click.echo(json.dumps(data))


def shown_callbacks(kept: Sequence[Callback], *, state: str | None) -> None:
    none = "No callbacks have failed." if state == "FAILED" else "No callbacks are waiting."
    click.echo("\n".join(tables.callbacks(kept, now=time.time())) if kept else none)


def shown_tasks(unfinished: UnfinishedTasks) -> None:
    if unfinished.tasks:
        click.echo("\n".join(tables.tasks(unfinished.tasks, now=time.time())))
    elif not unfinished.total:
        click.echo("No tasks are running or waiting.")


def counted(unfinished: UnfinishedTasks, *, to_stderr: bool) -> None:
    """Show how many tasks there are, and how to list those that were left out."""
    if not unfinished.total:
        return
    text = f"{unfinished.running:,} running, {unfinished.waiting:,} waiting."
    if len(unfinished.tasks) < unfinished.total:
        listed = f"{unfinished.offset + 1:,} to {unfinished.end:,}" if unfinished.tasks else "none"
        text += f" Listed: {listed}."
    if unfinished.end < unfinished.total:
        text += f" The next ones: denzel tasks --offset {unfinished.end}"
    click.echo(text, err=to_stderr)


def shown_quarantined(kept: Sequence[QuarantinedTask]) -> None:
    click.echo("\n".join(tables.quarantined(kept, now=time.time())) if kept else "No tasks are in quarantine.")


def resent(result: BulkResult) -> None:
    if result.done:
        click.echo(f"{_count_are(len(result.done), 'callback')} sent again now. To follow: denzel callbacks")
    elif not result.unknown:
        click.echo("No callbacks have failed.")


def replayed(result: BulkResult) -> None:
    if result.done:
        click.echo(f"{_count_are(len(result.done), 'task')} queued again. To follow: denzel tasks")


def discarded(result: BulkResult) -> None:
    if result.done:
        click.echo(f"{_count_are(len(result.done), 'task')} discarded.")


def listening(settings: Settings, host: str, port: int) -> None:
    reached = "127.0.0.1" if host == "0.0.0.0" else host
    name = reached if settings.backend == "local" else "host.docker.internal"
    click.echo(f"Listening on port {port}. Use as callback_uri: http://{name}:{port}/")


def received(callbacks: Iterable[ReceivedCallback]) -> None:
    """Print callbacks as they arrive, each with its body in the next line; until Ctrl-C."""
    with until_interrupted():
        for callback in callbacks:
            when = datetime.fromtimestamp(callback.when)
            what = escape(f"{when:%H:%M:%S} {callback.path} {callback.webhook_id or 'no webhook-id'}")
            click.echo(f"{what} {_signature(callback)}{' (repeated)' if callback.repeated else ''}")
            click.echo(_body(callback.body))


def drilled(report: DrillReport) -> None:
    click.echo()
    click.echo("\n".join(figures.drill(report)))


def benched(report: metrics.BenchReport) -> None:
    """Print the figures of a bench, and the bottleneck that they show."""
    click.echo()
    click.echo("\n".join(figures.bench(report)))
    click.echo()
    click.echo(f"{click.style('Bottleneck:', bold=True)} {report.verdict.bottleneck or 'none'}: {report.verdict.why}")


def lines(text: Iterable[str]) -> None:
    """Print lines as they come, until they end or Ctrl-C."""
    with until_interrupted():
        for line in text:
            click.echo(line)


def interrupted() -> None:
    click.echo("Interrupted. To see what is up: denzel status", err=True)


def interrupted_before(command: str, *, finishing: str) -> None:
    click.echo(f"denzel {command} was cut off before it was through. To finish it: denzel {finishing}", err=True)


def confirm(question: str) -> bool:
    """Ask the user; raises ConfirmationRequired without an answer, as when the standard input is closed."""
    try:
        if sys.stdin is not None:
            return click.confirm(question)
        click.echo(question)
    except click.Abort:
        click.echo()
    raise ConfirmationRequired("There was no answer.", hint="To go on without being asked, pass --yes.")


class ProgressPrinter:
    """Prints the progress of a long command: its phases, the steps of a build, each service as it comes up.

    With `to_stderr`, phases and notes go to the standard error, as the standard output has data.
    """

    def __init__(self, *, to_stderr: bool = False) -> None:
        self._to_stderr = to_stderr
        self._seen: dict[Service | str, State] = {}
        self._step = ""

    def _echo(self, text: str, *, err: bool = False) -> None:
        # A terminal that was closed must not keep the services from being started again.
        with suppress(OSError):
            click.echo(text, err=err)

    def doing(self, text: str) -> None:
        self._echo(f"{text} ...", err=self._to_stderr)

    def note(self, text: str) -> None:
        self._echo(text, err=self._to_stderr)

    def on_step(self, step: BuildStep) -> None:
        if step.text != self._step:
            self._echo(f"    {step.text}")
        self._step = step.text

    def on_status(self, status: Status) -> None:
        for service, report in status.services.items():
            if self._seen.get(service) is not report.state:
                self._echo(service_line(service, report.state, report.port))
            self._seen[service] = report.state
        if self._seen.get(status.worker.name) is not status.worker.state:
            self._echo(worker_line(status.worker))
            for line in warning_lines(status.worker) if status.worker.state is State.UP else ():
                self._echo(line)
        self._seen[status.worker.name] = status.worker.state


def _count_are(number: int, noun: str) -> str:
    return f"{pluralize(number, noun)} {'is' if number == 1 else 'are'}"


def _signature(callback: ReceivedCallback) -> str:
    if not callback.signed:
        return click.style("not signed", fg="yellow")
    if callback.fault:
        return click.style("signature BAD", fg="red") + f": {escape(callback.fault)}"
    return click.style("signature good", fg="green")


def _body(body: bytes) -> str:
    """A body as JSON in one line; of one that is not JSON, the beginning."""
    if not body:
        return "(empty)"
    try:
        return escape(json.dumps(json.loads(body.decode()), ensure_ascii=False))
    except (ValueError, RecursionError):
        shown = escape(body[:_MAX_RAW_BODY].decode("utf-8", "backslashreplace"))
        return f"(not JSON) {shown}" + (f"... ({len(body)} bytes)" if len(body) > _MAX_RAW_BODY else "")


def _host_to_type(host: str) -> str:
    return "localhost" if reachable(host) == "127.0.0.1" else host


@contextmanager
def until_interrupted() -> Iterator[None]:
    """End the block at Ctrl-C, and go on behind it."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo()
