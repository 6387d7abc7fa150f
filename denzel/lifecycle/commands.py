"""Launch, start, stop, update and removal of a project: the policy over a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Protocol

from denzel.backends.base import Backend, BuildStep
from denzel.errors import (
    AlreadyLaunched,
    BackendUnavailable,
    CommandFailed,
    NotLaunched,
    NotPermitted,
    ServiceNotRunning,
    ToolMissing,
)
from denzel.lifecycle import redis_state
from denzel.lifecycle.checks import check_ports_are_free, check_settings
from denzel.lifecycle.interruption import interrupted_command, uninterrupted
from denzel.lifecycle.readiness import StatusReader, raise_failure, wait_until_ready
from denzel.lifecycle.rehearsal import rehearse
from denzel.project import dotenv, lock
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.project.lock import StateSetter
from denzel.services import RESPONSE_KEY, State, Status, loads_key, worker_name

OS_REQUIREMENTS = "OS_REQUIREMENTS_UPDATED"
PIP_REQUIREMENTS = "PIP_REQUIREMENTS_UPDATED"


class Progress(Protocol):
    """Callbacks of a long command."""

    def doing(self, text: str) -> None:
        """Called when a phase begins."""

    def note(self, text: str) -> None:
        """Called with a remark."""

    def on_step(self, step: BuildStep) -> None:
        """Called when a step of the build begins."""

    def on_status(self, status: Status) -> None:
        """Called with each status that is read while the services start."""


def launch(
    project: Project,
    backend: Backend,
    settings: Settings,
    *,
    previous: Backend,
    options: Mapping[str, str],
    read_status: StatusReader | None,
    progress: Progress,
) -> None:
    """Build and start the services for the first time; with `read_status`, wait until the model is loaded.

    `options` are the settings given on the command line, which are written to .env once every check has passed;
    `previous` is the backend that .env named before, on which the project must not be launched any more.
    """
    with lock.exclusive(project.lock_file) as set_state:
        backend.check()
        backend.check_name_is_free()
        _check_not_launched(backend, previous)
        project.check_complete()
        check_settings(project, settings)
        check_ports_are_free(settings)
        uid, gid = project.service_user
        dotenv.change(project.env_file, {**options, "PROJECT_UID": str(uid), "PROJECT_GID": str(gid)})
        project.hand_over_logs()
        project.open_entrypoints()
        if backend.changes_the_machine and project.has_os_requirements:
            progress.note("requirements.sh is not run here. It would change this machine: denzel updateosreqs --yes")
        _build(backend, set_state, progress, stamps={"PROJECT_UID": str(uid), "PROJECT_GID": str(gid)})
        with _whole(project, "launch", progress):
            _up(backend, settings, set_state, read_status, progress)
        _wait(backend, read_status, progress)


def start(
    project: Project, backend: Backend, settings: Settings, *, read_status: StatusReader | None, progress: Progress
) -> None:
    """Start the services that are stopped or missing; raises NotLaunched."""
    with lock.exclusive(project.lock_file) as set_state:
        check_launched(backend)
        project.check_complete()
        check_settings(project, settings)
        with _whole(project, "start", progress):
            _up(backend, settings, set_state, read_status, progress)
        _wait(backend, read_status, progress)


def stop(project: Project, backend: Backend, *, progress: Progress) -> None:
    """Stop every service once its running predictions have ended; raises NotLaunched."""
    with lock.exclusive(project.lock_file):
        check_launched(backend)
        with _whole(project, "stop", progress):
            progress.doing("Stopping the services")
            backend.stop()


def restart(
    project: Project, backend: Backend, settings: Settings, *, read_status: StatusReader | None, progress: Progress
) -> None:
    """Stop, then start, with the current code and settings; raises NotLaunched."""
    with lock.exclusive(project.lock_file) as set_state:
        check_launched(backend)
        project.check_complete()
        check_settings(project, settings)
        _check_pipeline(backend, progress)
        with _whole(project, "restart", progress):
            progress.doing("Stopping the services")
            backend.stop()
            _up(backend, settings, set_state, read_status, progress)
        _wait(backend, read_status, progress)


def update_requirements(
    project: Project,
    backend: Backend,
    settings: Settings,
    *,
    kinds: tuple[str, ...],
    consent: bool,
    read_status: StatusReader | None,
    progress: Progress,
) -> None:
    """Install the requirements again and recreate the services; when that fails, the running services are untouched.

    `kinds` is OS_REQUIREMENTS, PIP_REQUIREMENTS or both. Those of the operating system need the user's `consent`
    where they would change this machine; without it NotPermitted is raised.
    """
    project.check_complete()
    if OS_REQUIREMENTS in kinds and backend.changes_the_machine and project.has_os_requirements and not consent:
        raise NotPermitted(
            "requirements.sh would change this machine itself, as there is no container.",
            hint="Read it, then pass --yes. The Python packages alone: denzel updatepipreqs",
        )
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    stamps = dict.fromkeys(kinds, stamp)
    with lock.exclusive(project.lock_file) as set_state:
        check_launched(backend)
        check_settings(project, settings)
        _build(backend, set_state, progress, stamps=stamps)
        _check_pipeline(backend, progress)
        dotenv.change(project.env_file, stamps)
        with _whole(project, "updatereqs", progress):
            _up(backend, settings, set_state, read_status, progress)
        _wait(backend, read_status, progress)


def shutdown(
    project: Project, backend: Backend, *, purge: bool, confirm: Callable[[str], bool], progress: Progress
) -> bool:
    """Remove the services, and with `purge` their data and image, asking `confirm` first when tasks would be lost.

    Returns True when something was removed: False when there was nothing, or when the answer was no.
    """
    with lock.exclusive(project.lock_file):
        backend.check()
        backend.check_name_is_free()
        launched = backend.is_launched()
        if purge:
            question = redis_state.loss(backend)
            if question and not confirm(question):
                return False
        with _whole(project, "shutdown", progress):
            progress.doing("Removing the services")
            backend.down(purge=purge)
        return launched or purge


def respond(project: Project, backend: Backend, *, synchronous: bool, timeout: float | None) -> bool:
    """Set how POST /predict answers, in .env and in a running project; `timeout` is in seconds, None keeps it.

    Returns True when the project is running, and so has changed at once.
    """
    changes = {"RESPONSE_MODE": "sync" if synchronous else "async"}
    if timeout is not None:
        changes["RESPONSE_TIMEOUT"] = f"{timeout:g}"
    with lock.exclusive(project.lock_file):
        with suppress(BackendUnavailable, ToolMissing):
            backend.check_name_is_free()
        dotenv.change(project.env_file, changes)
        now = dotenv.check(dotenv.read(project.env_file))
        try:
            backend.redis("HSET", RESPONSE_KEY, "mode", now["RESPONSE_MODE"], "timeout", f"{now['RESPONSE_TIMEOUT']:g}")
        except (ServiceNotRunning, BackendUnavailable, ToolMissing):
            return False
        return True


def finishing(command: str) -> str:
    """The command that finishes one which was killed: a second launch or update is not needed, only the start."""
    return command if command in ("stop", "restart", "shutdown") else "start"


def interrupted(project: Project) -> str | None:
    """The name of the command that was killed while it changed what runs, unless another one does by now."""
    return None if lock.is_held(project.lock_file) else interrupted_command(project.interruption_file)


def not_launched() -> NotLaunched:
    """The error for a command that needs a launched project."""
    return NotLaunched("The project is not launched.", hint="denzel launch")


def check_launched(backend: Backend) -> None:
    """Raise NotLaunched unless the project is launched, or the backend's error when that cannot be read."""
    backend.check()
    backend.check_name_is_free()
    if not backend.is_launched():
        raise not_launched()


def _check_not_launched(backend: Backend, previous: Backend) -> None:
    if backend.is_launched():
        raise AlreadyLaunched('Project already launched! Did you mean "denzel start"?', hint="denzel start")
    with suppress(BackendUnavailable, ToolMissing):
        if previous.is_launched():
            raise AlreadyLaunched(
                f"Project already launched, on the {previous.name} backend!",
                hint=f"First: denzel shutdown. Then: denzel launch --backend {backend.name}",
            )


def _build(backend: Backend, set_state: StateSetter, progress: Progress, *, stamps: Mapping[str, str]) -> None:
    def on_step(step: BuildStep) -> None:
        set_state(step.state)
        progress.on_step(step)

    progress.doing("Installing the requirements")
    set_state(State.INSTALLING_OS)
    backend.build(on_step, stamps=stamps)


def _check_pipeline(backend: Backend, progress: Progress) -> None:
    # It may import large packages, which takes a while.
    progress.doing("Checking the pipeline")
    rehearse(backend)


@contextmanager
def _whole(project: Project, command: str, progress: Progress) -> Iterator[None]:
    """Let no signal cut a change of what runs in half; `command` finishes it when this process is killed."""
    before = interrupted_command(project.interruption_file)
    if before:
        progress.note(f"denzel {before} was cut off before it was through.")
    waiting = f"denzel {command} goes on until the services are in order, then ends."
    with uninterrupted(project.interruption_file, command, lambda: progress.note(waiting)):
        yield


def _up(
    backend: Backend, settings: Settings, set_state: StateSetter, read_status: StatusReader | None, progress: Progress
) -> None:
    """Start the services; what `read_status` shows is the cause when one does not start."""
    progress.doing("Starting the services")
    if int(settings.texts["WORKER_MEMORY_MB"] or 0) and not backend.bounds_memory:
        progress.note(
            f"WORKER_MEMORY_MB does not hold on the backend {backend.name}: only a container's memory is bounded. "
            f"WORKER_MAX_MB replaces a process that holds too much, between two tasks."
        )
    # Until the first container exists, only this state distinguishes a launch from no launch for `status`.
    set_state(State.STARTING)
    try:
        backend.up()
    except CommandFailed as error:
        set_state(None)
        status = read_status() if read_status else None
        if status is not None:
            raise_failure(backend, status, detail=error.detail)
        raise
    set_state(None)
    # The api has just read its mode from .env, which holds what `denzel response` set. And a model that failed to load
    # the last time may have been fixed.
    redis_state.forget(backend, RESPONSE_KEY, loads_key(worker_name(settings.compose_name)))


def _wait(backend: Backend, read_status: StatusReader | None, progress: Progress) -> None:
    """With `read_status`, wait until the model is loaded."""
    if read_status is not None:
        wait_until_ready(backend, read_status, progress.on_status)
