"""The project under test: its addresses, that of this machine as its services reach it, and the progress of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from denzel.errors import ServiceNotRunning
from denzel.project.dotenv import Settings
from denzel.services import Service, Status, reachable


@dataclass(frozen=True, kw_only=True)
class Target:
    """Addresses of the api and of the dashboard, and an API key, empty where none is required.

    A callback receiver binds to the address `listen`; the services reach it at `host`.
    """

    api: tuple[str, int]
    monitor: tuple[str, int]
    key: str
    listen: str
    host: str


class Progress(Protocol):
    """Progress of a drill or a bench, as it is shown."""

    def doing(self, text: str) -> None:
        """Show a step that begins."""

    def note(self, text: str) -> None:
        """Show a remark on it."""


def find_target(settings: Settings, status: Status | None) -> Target:
    """The target that these settings describe; raises ServiceNotRunning unless the project is ready."""
    if status is None or not status.ready:
        raise ServiceNotRunning("The project is not ready: not every service is up.", hint="denzel status")
    local = settings.backend == "local"
    return Target(
        api=(reachable(settings.api_host), status.services[Service.API].port or settings.api_port),
        monitor=(reachable(settings.monitor_host), status.services[Service.MONITOR].port or settings.monitor_port),
        key=settings.texts["API_KEYS"].split(",")[0],
        # Containers connect over Docker's bridge, so loopback alone is not enough for them.
        listen="127.0.0.1" if local else "0.0.0.0",
        host="127.0.0.1" if local else "host.docker.internal",
    )
