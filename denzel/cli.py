"""The command line on one page: each command parses its options, calls one function and prints one message."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from denzel import __version__, admin
from denzel.backends import open_backend
from denzel.backends.base import Backend
from denzel.errors import (
    BackendUnavailable,
    CommandFailed,
    DenzelError,
    ProjectNotFound,
    TooFewTasks,
    ToolMissing,
)
from denzel.lifecycle import commands as lifecycle
from denzel.lifecycle.status import read_status
from denzel.loadtest.drill import results
from denzel.project import dotenv, log_file, task_log
from denzel.project.dotenv import Settings
from denzel.project.folder import Project, find_project
from denzel.project.storage import storage_failure
from denzel.services import Service, Status, reachable
from denzel.terminal import console
from denzel.terminal.options import (
    PORT,
    SERVICES,
    FiniteRange,
    file_option,
    json_option,
    read_parts,
    refuse_options_of_the_list,
    wait_option,
    yes_option,
)


class Commands(click.Group):
    """The one error boundary: a DenzelError becomes its message and hint, any other exception keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DenzelError as error:
            console.error(error)
            ctx.exit(1)
        except OSError as error:
            refused = storage_failure(error)
            if refused is None:
                raise
            console.error(refused)
            ctx.exit(1)
        except KeyboardInterrupt:
            console.interrupted()
            ctx.exit(1)


@dataclass(frozen=True)
class OpenProject:
    """The project around the current folder, with its settings and its backend."""

    project: Project
    settings: Settings
    backend: Backend

    @property
    def name(self) -> str:
        return self.settings.compose_name

    def read_status(self) -> Status | None:
        return read_status(self.project, self.backend, name=self.name)

    def task_log(self, task_id: str, *, follow: bool) -> Iterable[str]:
        """The lines of a task; those that services printed only where they can be read."""
        if follow:
            return task_log.follow_task(self.project.worker_log, task_id)
        outputs: list[str] = []
        with suppress(BackendUnavailable, ToolMissing, CommandFailed):
            outputs = list(self.backend.logs([Service.API, Service.DENZEL]))
        return task_log.read_task(self.project.worker_log, outputs, task_id)

    def statuses(self, *, interval: float) -> Iterator[Status]:
        """The status again and again, every `interval` seconds; raises NotLaunched unless the project is launched."""
        while True:
            status = self.read_status()
            if status is None:
                raise lifecycle.not_launched()
            yield status
            time.sleep(interval)

    def bring_up(self, command: Callable[..., None], *, wait: bool) -> None:
        """Run a command that starts the services, and print where they can be reached."""
        read_status = self.read_status if wait else None
        command(self.project, self.backend, self.settings, read_status=read_status, progress=console.ProgressPrinter())
        console.launched(self.settings)


def current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise ProjectNotFound("The current folder no longer exists.", hint="Go to another one (cd).") from None


def open_project(options: dict[str, str] | None = None) -> OpenProject:
    project = find_project(current_folder())
    settings = dotenv.load(project.env_file, os.environ, options)
    return OpenProject(project, settings, open_backend(project, settings))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="denzel")
def main() -> None:
    """From a trained model to a running prediction service."""


@main.command()
@click.argument("name")
@click.option("--gpu/--no-gpu", default=False, help="Support for NVIDIA GPUs.")
def startproject(name: str, gpu: bool) -> None:
    """Build the skeleton of a project in the folder NAME.

    Then write app/logic/pipeline.py, and launch it: denzel launch (with Docker), or denzel launch --backend local.
    """
    # Imported here: no other command renders templates.
    from denzel.project import scaffold

    console.scaffolded(scaffold.start_project(name, current_folder(), gpu=gpu))


@main.command()
@click.option("--api-port", type=PORT, help="Port of the API.  [default: 8000]")
@click.option("--monitor-port", type=PORT, help="Port of the dashboard.  [default: 5555]")
@click.option("--monitor-host", help="Address the dashboard is published on.  [default: 127.0.0.1]")
@click.option("--backend", type=click.Choice(["docker", "local"]), help="Docker, or this machine.  [default: docker]")
@wait_option
def launch(
    api_port: int | None, monitor_port: int | None, monitor_host: str | None, backend: str | None, wait: bool
) -> None:
    """Build and start all services for the first time."""
    given = {"API_PORT": api_port, "MONITOR_PORT": monitor_port, "MONITOR_HOST": monitor_host, "BACKEND": backend}
    options = {key: str(value) for key, value in given.items() if value is not None}
    here = open_project(options)
    here.bring_up(partial(lifecycle.launch, previous=open_project().backend, options=options), wait=wait)


@main.command()
@wait_option
def start(wait: bool) -> None:
    """Start the services that are stopped."""
    open_project().bring_up(lifecycle.start, wait=wait)


@main.command()
def stop() -> None:
    """Stop the services; queued tasks stay queued."""
    here = open_project()
    lifecycle.stop(here.project, here.backend, progress=console.ProgressPrinter())
    console.say("Stopped. To continue: denzel start")


@main.command()
@wait_option
def restart(wait: bool) -> None:
    """Stop and start, with the current code and settings."""
    open_project().bring_up(lifecycle.restart, wait=wait)


@main.command()
@click.option(
    "--purge/--no-purge",
    default=False,
    help="Remove the image and the stored data too, without waiting for running tasks.",
)
@click.option("--yes", is_flag=True, help="Remove unfinished tasks without asking.")
def shutdown(purge: bool, yes: bool) -> None:
    """Remove the services; the stored data is kept, unless purged."""
    here = open_project()
    removed = lifecycle.shutdown(
        here.project,
        here.backend,
        purge=purge,
        confirm=lambda question: yes or console.confirm(question),
        progress=console.ProgressPrinter(),
    )
    console.say("Removed." if removed else "Nothing was removed.")
    if purge and not removed:
        sys.exit(1)


@main.command()
@click.option("--live/--no-live", default=False, help="Keep watching, until Ctrl-C.")
@json_option("status")
def status(live: bool, as_json: bool) -> None:
    """Show the state of the services and of the worker."""
    here = open_project()
    here.backend.check_name_is_free()
    if as_json:
        console.shown_status_json(here.read_status())
    elif live:
        console.shown_live_status(here.statuses(interval=1))
    else:
        console.shown_status(next(here.statuses(interval=0)))
    if command := lifecycle.interrupted(here.project):
        console.interrupted_before(command, finishing=lifecycle.finishing(command))


@main.command()
@click.option("--service", type=click.Choice([*SERVICES, "all"]), default="all", help="Service to show.")
@click.option("--task", "task_id", metavar="ID", help="Lines of one task alone, by its id or the beginning of that.")
@click.option("--live/--no-live", default=False, help="Keep following, until Ctrl-C.")
def logs(service: str, task_id: str | None, live: bool) -> None:
    """Show what the services printed.

    With --task, show what the worker's log and the services have of one task; with --live, of the worker's log alone.
    """
    here = open_project()
    if task_id is not None:
        if service != "all":
            raise click.UsageError("Both --task and --service were passed. --task reads the logs of all services.")
        if not task_id.strip():
            raise click.UsageError("--task needs the id of a task, or its beginning.")
        console.lines(here.task_log(task_id.strip(), follow=live))
        return
    chosen = list(Service) if service == "all" else [Service(service)]
    lifecycle.check_launched(here.backend)
    console.lines(here.backend.logs(chosen, follow=live))


@main.command()
@click.option("--live/--no-live", default=False, help="Keep following, until Ctrl-C.")
def logworker(live: bool) -> None:
    """Show the worker's log file, logs/worker.log."""
    path = find_project(current_folder()).worker_log
    console.lines(log_file.follow_log(path) if live else log_file.read_log(path))


@main.command()
@click.option("--service", type=click.Choice(SERVICES), default="denzel", help="Service to open it in.")
def shell(service: str) -> None:
    """Open a shell inside a service."""
    here = open_project()
    lifecycle.check_launched(here.backend)
    sys.exit(here.backend.shell(Service(service)))


@main.command()
@click.option(
    "--sync/--async", "synchronous", default=None, help="Answer with the result, or at once with the task id."
)
@click.option("--timeout", type=FiniteRange(0, 300), help="Seconds that a synchronous answer waits for the result.")
def response(synchronous: bool | None, timeout: float | None) -> None:
    """Change how POST /predict answers, without a restart."""
    if synchronous is None:
        raise click.UsageError("Pass --sync or --async.")
    here = open_project()
    running = lifecycle.respond(here.project, here.backend, synchronous=synchronous, timeout=timeout)
    mode = "with the result" if synchronous else "at once, with the task id"
    console.say(f"POST /predict answers {mode}{'' if running else ', from the next start on'}.")


@main.command()
@click.option("--port", type=PORT, default=9000, help="Port to listen on.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1; with containers 0.0.0.0]")
def listen(port: int, host: str | None) -> None:
    """Receive callbacks and check their signatures."""
    # Imported here: no other command needs a server.
    from denzel.webhooks import listener

    project = find_project(current_folder())
    settings = dotenv.load(project.env_file, os.environ)
    # Containers connect over Docker's bridge.
    address = host or ("127.0.0.1" if settings.backend == "local" else "0.0.0.0")
    secret = listener.Secret(project.env_file, os.environ, known=settings.callback_secret)
    with listener.listening(address, port, secret=secret) as callbacks:
        console.listening(settings, address, port)
        console.received(callbacks)


@main.command()
@click.argument("task_id", metavar="ID")
def watch(task_id: str) -> None:
    """Follow a task in the terminal until it has ended.

    Its place in the queue, its progress, the output of a generator, and its result are shown. The exit code is 0 for
    SUCCESS, 1 for any other end.
    """
    # Imported here: no other command needs an HTTP client of its own.
    from denzel import watch as stream
    from denzel.terminal import watching

    here = open_project()
    lifecycle.check_launched(here.backend)
    address = reachable(here.settings.api_host), here.settings.api_port
    key = here.settings.texts["API_KEYS"].split(",")[0].strip()
    status = watching.watched(stream.watch(address, task_id, key=key))
    sys.exit(0 if status in (None, "SUCCESS") else 1)


@main.group(invoke_without_command=True)
@click.option("--failed", is_flag=True, help="Only those that were given up.")
@click.option("--pending", is_flag=True, help="Only those that will be tried again.")
@json_option("list")
@click.pass_context
def callbacks(context: click.Context, failed: bool, pending: bool, as_json: bool) -> None:
    """List the callbacks that are not delivered."""
    if context.invoked_subcommand is not None:
        refuse_options_of_the_list(context)
        return
    if failed and pending:
        raise click.UsageError("Pass --failed or --pending, or neither for both.")
    here = open_project()
    lifecycle.check_launched(here.backend)
    state = "FAILED" if failed else "PENDING" if pending else None
    kept = admin.read_callbacks(here.backend, state=state)
    if as_json:
        console.shown_json(admin.as_data(kept))
    else:
        console.shown_callbacks(kept, state=state)


@callbacks.command("resend")
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--failed", is_flag=True, help="All that were given up.")
def resend_callbacks(task_ids: tuple[str, ...], failed: bool) -> None:
    """Send the callbacks of these tasks again, now."""
    if task_ids and failed:
        raise click.UsageError("Both ids and --failed were passed. Pass the ids of tasks, or --failed for all.")
    if not task_ids and not failed:
        raise click.UsageError("Pass the ids of tasks, or --failed.")
    here = open_project()
    lifecycle.check_launched(here.backend)
    result = admin.resend_failed(here.backend) if failed else admin.resend(here.backend, task_ids)
    console.resent(result)
    admin.check_callbacks_known(result)


@main.group(invoke_without_command=True)
@click.option(
    "--quarantined", is_flag=True, help="List those that killed their worker too often, or cannot run here, instead."
)
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Leave out so many at the start of the list.")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="List so many, at most.")
@json_option("list")
@click.pass_context
def tasks(context: click.Context, quarantined: bool, offset: int, limit: int, as_json: bool) -> None:
    """List the tasks that run or wait, and count them."""
    if context.invoked_subcommand is not None:
        refuse_options_of_the_list(context)
        return
    here = open_project()
    lifecycle.check_launched(here.backend)
    if quarantined:
        kept = admin.read_quarantined(here.backend)
        console.shown_json(admin.as_data(kept)) if as_json else console.shown_quarantined(kept)
    else:
        unfinished = admin.read_tasks(here.backend, offset=offset, limit=limit)
        console.shown_json(admin.as_data(unfinished.tasks)) if as_json else console.shown_tasks(unfinished)
        if not as_json or len(unfinished.tasks) < unfinished.total:
            console.counted(unfinished, to_stderr=as_json)


@tasks.command("replay")
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
def replay_tasks(task_ids: tuple[str, ...]) -> None:
    """Run quarantined tasks again."""
    here = open_project()
    lifecycle.check_launched(here.backend)
    result = admin.replay(here.backend, task_ids)
    console.replayed(result)
    admin.check_tasks_known(result)


@tasks.command("discard")
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Discard the tasks and their requests without asking.")
def discard_tasks(task_ids: tuple[str, ...], yes: bool) -> None:
    """Remove quarantined tasks for good."""
    here = open_project()
    lifecycle.check_launched(here.backend)
    if not yes and not console.confirm("These tasks cannot be run again afterwards. Continue?"):
        console.say("Nothing was discarded.")
        sys.exit(1)
    result = admin.discard(here.backend, task_ids)
    console.discarded(result)
    admin.check_tasks_known(result)


@main.command()
@click.option("--tasks", type=click.IntRange(min=1), default=500, help="Number of requests to send.")
@click.option(
    "--kill",
    "parts",
    callback=read_parts,
    metavar="PARTS",
    default=",".join(results.PARTS),
    help="Parts to kill, in this order.",
)
@file_option
@click.option("--port", type=PORT, help="Port of the drill's receiver.  [default: a free one]")
@json_option("figures")
@click.option("--yes", is_flag=True, help="Kill services without asking.")
def drill(tasks: int, parts: tuple[str, ...], path: Path | None, port: int | None, as_json: bool, yes: bool) -> None:
    """Kill the services one by one, and count what is lost.

    Requests are sent to a running project meanwhile, and the result and the callback of each are awaited.
    """
    # Imported here, as for bench: no other command sends requests.
    from denzel.loadtest import request_file
    from denzel.loadtest.drill import run as drill

    try:
        drill.check_enough(tasks, parts)
    except TooFewTasks as error:
        raise click.UsageError(f"{error} {error.hint}") from None
    here = open_project()
    lifecycle.check_launched(here.backend)
    requests = request_file.read_requests(path or here.project.example)
    if not yes and not console.confirm(
        f"This kills services of {here.name} and sends it {tasks} requests. Do not run it on one in use. Continue?"
    ):
        console.say("Nothing was killed.")
        sys.exit(1)
    report = drill.drill(
        here.project,
        here.backend,
        here.settings,
        requests=requests,
        tasks=tasks,
        parts=parts,
        receiver_port=port or 0,
        read_status=here.read_status,
        progress=console.ProgressPrinter(to_stderr=as_json),
    )
    console.shown_json(report.to_dict()) if as_json else console.drilled(report)
    if report.interrupted:
        raise KeyboardInterrupt
    report.raise_for_failure()


@main.command()
@click.option("--rate", type=FiniteRange(0, 100_000, min_open=True), help="Requests per second, at fixed times.")
@click.option(
    "--clients", type=click.IntRange(1, 1000), help="Clients that each send one request after another.  [default: 16]"
)
@click.option(
    "--seconds", type=FiniteRange(0, 86400, min_open=True), default=10, help="Duration of the load, in seconds."
)
@file_option
@click.option(
    "--sync/--async",
    "synchronous",
    default=None,
    help="Ask for the result, or for the task id.  [default: RESPONSE_MODE]",
)
@click.option("--port", type=PORT, help="Port of the bench's receiver.  [default: a free one]")
@json_option("figures")
def bench(
    rate: float | None,
    clients: int | None,
    seconds: float,
    path: Path | None,
    synchronous: bool | None,
    port: int | None,
    as_json: bool,
) -> None:
    """Measure how fast the project is, and what limits it.

    Real requests are sent to a running project, and each is followed to its result or its callback. Ctrl-C ends the
    bench early, with the figures so far.
    """
    # Imported here, as for drill.
    from denzel.loadtest import request_file
    from denzel.loadtest.bench import run as bench
    from denzel.loadtest.load import LoadProfile

    if rate is not None and clients is not None:
        raise click.UsageError("Both --rate and --clients were passed. Pass --rate for requests at fixed times.")
    here = open_project()
    lifecycle.check_launched(here.backend)
    report = bench.bench(
        here.project,
        here.backend,
        here.settings,
        requests=request_file.read_requests(path or here.project.example),
        profile=LoadProfile(seconds=seconds, rate=rate, clients=(clients or 16) if rate is None else None),
        synchronous=synchronous,
        receiver_port=port or 0,
        read_status=here.read_status,
        progress=console.ProgressPrinter(to_stderr=as_json),
    )
    console.shown_json(report.to_dict()) if as_json else console.benched(report)
    if report.interrupted:
        raise KeyboardInterrupt


@main.command()
@yes_option
@wait_option
def updatereqs(yes: bool, wait: bool) -> None:
    """Install all requirements again, at their newest versions."""
    _update((lifecycle.OS_REQUIREMENTS, lifecycle.PIP_REQUIREMENTS), consent=yes, wait=wait)


@main.command()
@wait_option
def updatepipreqs(wait: bool) -> None:
    """Install requirements.txt again, at the newest versions."""
    _update((lifecycle.PIP_REQUIREMENTS,), consent=False, wait=wait)


@main.command()
@yes_option
@wait_option
def updateosreqs(yes: bool, wait: bool) -> None:
    """Run requirements.sh again."""
    _update((lifecycle.OS_REQUIREMENTS,), consent=yes, wait=wait)


def _update(kinds: tuple[str, ...], *, consent: bool, wait: bool) -> None:
    open_project().bring_up(partial(lifecycle.update_requirements, kinds=kinds, consent=consent), wait=wait)
