"""Checks of settings, addresses and ports, before anything that runs is stopped."""

from __future__ import annotations

import ipaddress
import socket

from denzel.errors import PortTaken, SettingInvalid
from denzel.project import pipeline_env
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import Service


def check_settings(project: Project, settings: Settings) -> None:
    """Refuse settings and variables with which no service could start, before anything that runs is stopped."""
    pipeline_env.read(project.pipeline_env)
    if not ipaddress.ip_address(settings.monitor_host).is_loopback and not settings.monitor_password:
        raise SettingInvalid(
            f"MONITOR_HOST is {settings.monitor_host}: the dashboard would be open to others without a password.",
            hint="Set MONITOR_PASSWORD in .env, or leave out --monitor-host.",
        )
    if settings.api_port == settings.monitor_port:
        raise PortTaken(
            f"Port {settings.api_port} is set twice, for the api and for the monitor.",
            hint="Pass another one with --api-port or --monitor-port, or set it in .env.",
        )
    for service, host in ((Service.API, settings.api_host), (Service.MONITOR, settings.monitor_host)):
        key = f"{service.name}_HOST"
        if _refusal(host, 0) is not None:
            raise SettingInvalid(
                f"{key} is {host}, which is not an address of this machine.",
                hint=f"Set {key} in .env to one that is, or to 0.0.0.0 for all.",
            )


def check_ports_are_free(settings: Settings) -> None:
    for service, host, port in (
        (Service.API, settings.api_host, settings.api_port),
        (Service.MONITOR, settings.monitor_host, settings.monitor_port),
    ):
        refusal = _refusal(host, port)
        # We may not bind a port below 1024 to try it; Docker, which publishes it, mostly may.
        if refusal is not None and not isinstance(refusal, PermissionError):
            raise PortTaken(
                f"Port {port} is already taken ({host}: {refusal.strerror}).",
                hint=f"Pass another one with --{service.value}-port.",
            )


def _refusal(host: str, port: int) -> OSError | None:
    """The error with which the system refuses to let a server listen there; None when it allows it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None
