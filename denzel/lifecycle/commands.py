"""Launch, stop, change and remove a project: the policy over a backend."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from denzel.backends.base import Backend, BuildStep
from denzel.errors import (
    AlreadyLaunched,
    BackendUnavailable,
    CommandFailed,
    NotLaunched,
    NotPermitted,
    PortTaken,
    ServiceNotRunning,
    SettingInvalid,
    ToolMissing,
)
from denzel.lifecycle import redis_state
from denzel.lifecycle.readiness import Look, raise_failure, wait_until_ready
from denzel.project import dotenv as settings_file
from denzel.project import lock
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import (
    RESPONSE_KEY,
    Service,
    State,
    Status,
    loads_key,
    worker_name,
)

OS_REQUIREMENTS = "OS_REQUIREMENTS_UPDATED"
PIP_REQUIREMENTS = "PIP_REQUIREMENTS_UPDATED"


class LaunchProgress(Protocol):
    """Whoever watches a long command."""

    def doing(self, text: str) -> None:
        """A new phase begins."""

    def note(self, text: str) -> None:
        """Something worth knowing."""

    def built(self, step: BuildStep) -> None:
        """A step of the build begins."""

    def saw(self, status: Status) -> None:
        """The services are being waited for, and are now so."""


def launch(
    project: Project,
    backend: Backend,
    settings: Settings,
    *,
    previous: Backend,
    options: Mapping[str, str],
    look: Look | None,
    progress: LaunchProgress,
) -> None:
    """Build and start the services for the first time, and wait until `look` sees the model loaded (None: do not wait).

    `options` are the settings given on the command line, which are stored in .env once every check has passed;
    `previous` is the backend that was stored there before, on which the project must not be launched any more.
    """
    with lock.exclusive(project.activity_file) as announce:
        backend.check()
        backend.check_name_is_free()
        _check_not_launched(backend, previous)
        _check_settings(settings)
        _check_ports_are_free(settings)
        uid, gid = project.service_user
        settings_file.change(project.env_file, {**options, "PROJECT_UID": str(uid), "PROJECT_GID": str(gid)})
        project.hand_over_logs()
        project.open_entrypoints()
        if backend.changes_the_machine and project.has_os_requirements:
            progress.note("requirements.sh is not run here. It would change this machine: denzel updateosreqs --yes")
        _build(backend, announce, progress, stamps={"PROJECT_UID": str(uid), "PROJECT_GID": str(gid)})
        _up(backend, settings, announce, look, progress)


def start(
    project: Project, backend: Backend, settings: Settings, *, look: Look | None, progress: LaunchProgress
) -> None:
    """Start what is stopped or missing; raises NotLaunched."""
    with lock.exclusive(project.activity_file) as announce:
        check_launched(backend)
        _check_settings(settings)
        _up(backend, settings, announce, look, progress)


def stop(project: Project, backend: Backend, *, progress: LaunchProgress) -> None:
    """Stop every service, letting running predictions end; raises NotLaunched."""
    with lock.exclusive(project.activity_file):
        check_launched(backend)
        progress.doing("Stopping the services")
        backend.stop()


def restart(
    project: Project, backend: Backend, settings: Settings, *, look: Look | None, progress: LaunchProgress
) -> None:
    """Stop, then start, with the code and the settings as they are now; raises NotLaunched."""
    with lock.exclusive(project.activity_file) as announce:
        check_launched(backend)
        _check_settings(settings)
        progress.doing("Stopping the services")
        backend.stop()
        _up(backend, settings, announce, look, progress)


def update_requirements(
    project: Project,
    backend: Backend,
    settings: Settings,
    *,
    kinds: tuple[str, ...],
    consent: bool,
    look: Look | None,
    progress: LaunchProgress,
) -> None:
    """Install the requirements anew and recreate the services; while that fails, what runs keeps running.

    `kinds` names which: OS_REQUIREMENTS, PIP_REQUIREMENTS or both. Those of the operating system need the user's
    `consent` where they would change this machine; without it NotPermitted is raised.
    """
    if OS_REQUIREMENTS in kinds and backend.changes_the_machine and project.has_os_requirements and not consent:
        raise NotPermitted(
            "requirements.sh would change this machine itself, as there is no container.",
            hint="Read it, then pass --yes. The Python packages alone: denzel updatepipreqs",
        )
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    stamps = dict.fromkeys(kinds, stamp)
    with lock.exclusive(project.activity_file) as announce:
        check_launched(backend)
        _check_settings(settings)
        _build(backend, announce, progress, stamps=stamps)
        settings_file.change(project.env_file, stamps)
        _up(backend, settings, announce, look, progress)


def shutdown(
    project: Project, backend: Backend, *, purge: bool, confirm: Callable[[str], bool], progress: LaunchProgress
) -> bool:
    """Remove the services, and with `purge` their data and image, asking `confirm` first when tasks would be lost.

    Returns whether anything was removed: False when there was nothing, or when the answer was no.
    """
    with lock.exclusive(project.activity_file):
        backend.check()
        backend.check_name_is_free()
        launched = backend.is_launched()
        if purge:
            question = redis_state.loss(backend)
            if question and not confirm(question):
                return False
        progress.doing("Removing the services")
        backend.down(purge=purge)
        return launched or purge


def respond(project: Project, backend: Backend, *, synchronous: bool, timeout: float | None) -> bool:
    """Change how POST /predict answers, at once and for later; returns whether a running project was told."""
    changes = {"RESPONSE_MODE": "sync" if synchronous else "async"}
    if timeout is not None:
        changes["RESPONSE_TIMEOUT"] = f"{timeout:g}"
    with lock.exclusive(project.activity_file):
        with suppress(BackendUnavailable, ToolMissing):
            backend.check_name_is_free()
        settings_file.change(project.env_file, changes)
        now = settings_file.check(settings_file.read(project.env_file))
        try:
            backend.redis("HSET", RESPONSE_KEY, "mode", now["RESPONSE_MODE"], "timeout", f"{now['RESPONSE_TIMEOUT']:g}")
        except (ServiceNotRunning, BackendUnavailable, ToolMissing):
            return False
        return True


def check_launched(backend: Backend) -> None:
    """Raise NotLaunched, or why the backend cannot tell, unless the project is launched."""
    backend.check()
    backend.check_name_is_free()
    if not backend.is_launched():
        raise NotLaunched("The project is not launched.", hint="denzel launch")


def _check_not_launched(backend: Backend, previous: Backend) -> None:
    if backend.is_launched():
        raise AlreadyLaunched('Project already launched! Did you mean "denzel start"?', hint="denzel start")
    with suppress(BackendUnavailable, ToolMissing):
        if previous.is_launched():
            raise AlreadyLaunched(
                f"Project already launched, on the {previous.name} backend!",
                hint=f"First: denzel shutdown. Then: denzel launch --backend {backend.name}",
            )


def _check_settings(settings: Settings) -> None:
    """Refuse what no service can be started with, while those that run are still up."""
    if not ipaddress.ip_address(settings.monitor_host).is_loopback and not settings.monitor_password:
        raise SettingInvalid(
            f"MONITOR_HOST is {settings.monitor_host}: the dashboard would be open to others without a password.",
            hint="Set MONITOR_PASSWORD in .env, or leave out --monitor-host.",
        )
    if settings.api_port == settings.monitor_port:
        raise PortTaken(
            f"Port {settings.api_port} is asked for twice, for the api and for the monitor.",
            hint="Pass another one with --api-port or --monitor-port, or set it in .env.",
        )
    for service, host in ((Service.API, settings.api_host), (Service.MONITOR, settings.monitor_host)):
        key = f"{service.name}_HOST"
        if _refusal(host, 0) is not None:
            raise SettingInvalid(
                f"{key} is {host}, which is not an address of this machine.",
                hint=f"Set {key} in .env to one that is, or to 0.0.0.0 for all.",
            )


def _check_ports_are_free(settings: Settings) -> None:
    for service, host, port in (
        (Service.API, settings.api_host, settings.api_port),
        (Service.MONITOR, settings.monitor_host, settings.monitor_port),
    ):
        refusal = _refusal(host, port)
        # A port below 1024 is not ours to try; Docker, which publishes it, mostly may.
        if refusal is not None and not isinstance(refusal, PermissionError):
            raise PortTaken(
                f"Port {port} is already taken ({host}: {refusal.strerror}).",
                hint=f"Pass another one with --{service.value}-port.",
            )


def _refusal(host: str, port: int) -> OSError | None:
    """Why the system would not let a server listen there; None when it would."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _build(backend: Backend, announce: lock.Announce, progress: LaunchProgress, *, stamps: Mapping[str, str]) -> None:
    def on_step(step: BuildStep) -> None:
        announce(step.state)
        progress.built(step)

    progress.doing("Installing the requirements")
    announce(State.INSTALLING_OS)
    backend.build(on_step, stamps=stamps)


def _up(
    backend: Backend, settings: Settings, announce: lock.Announce, look: Look | None, progress: LaunchProgress
) -> None:
    progress.doing("Starting the services")
    # Until the first of them is made there is nothing else by which `status` could tell this from no launch at all.
    announce(State.STARTING)
    try:
        backend.up()
    except CommandFailed as error:
        announce(None)
        status = look() if look else None
        if status is not None:
            raise_failure(backend, status, said=error.detail)
        raise
    announce(None)
    # The api has just read its mode from .env; what `denzel response` told the running one is in there. And what ended
    # while it loaded the model, the last time, may have been mended.
    redis_state.forget(backend, RESPONSE_KEY, loads_key(worker_name(settings.compose_name)))
    if look is not None:
        wait_until_ready(backend, look, progress.saw)
