"""Fault injection: kills parts of a running project, and detects when they have recovered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from denzel.backends.base import Backend
from denzel.errors import CommandFailed, ServiceNotRunning
from denzel.loadtest.client import HttpClient, NoResponse
from denzel.loadtest.drill.results import WORKER
from denzel.loadtest.request_log import RequestLog
from denzel.services import Service, worker_key, worker_name

#: True when a part that was killed at this time works again.
HasRecovered = Callable[[float], Awaitable[bool]]


class FaultInjector:
    """Kills parts of the project called `name`. The backend is used in threads, one call after another."""

    def __init__(self, backend: Backend, name: str, *, monitor: tuple[str, int], log: RequestLog) -> None:
        self._backend = backend
        self._worker_key = worker_key(worker_name(name))
        self._monitor = monitor
        self._log = log

    async def kill(self, part: str) -> HasRecovered:
        """Kill a part, and return once it has ended; raises ServiceNotRunning when there is nothing to kill."""
        if part == WORKER:
            return await self._kill_process()
        service = Service(part)
        await asyncio.to_thread(self._backend.kill, service)
        match service:
            case Service.MONITOR:
                return self._is_dashboard_healthy
            case Service.API:
                return self._has_accepted
            case _:
                return self._has_completed

    async def _kill_process(self) -> HasRecovered:
        """Kill a process that predicts. The worker has recovered when it completes tasks and has a replacement."""
        before = await self._processes()
        for process in before:
            try:
                argv = ["bash", "-c", f"kill -KILL {process}"]
                await asyncio.to_thread(self._backend.execute, Service.DENZEL, argv)
            except CommandFailed:
                # It has just ended by itself.
                continue

            async def has_recovered(killed: float) -> bool:
                return await self._has_completed(killed) and bool(await self._processes() - before)

            return has_recovered
        raise ServiceNotRunning("No process of the worker has the model loaded.", hint="denzel status")

    async def _has_accepted(self, killed: float) -> bool:
        return any((task.accepted or 0) > killed for task in self._log.accepted)

    async def _has_completed(self, killed: float) -> bool:
        """True when a task that was accepted since then is completed."""
        return any(task.has_run and (task.accepted or 0) > killed for task in self._log.accepted)

    async def _processes(self) -> set[str]:
        """The ids of the processes that predict, within the service; none while Redis does not answer."""
        try:
            fields: dict[str, str] = await asyncio.to_thread(self._backend.redis, "HGETALL", self._worker_key)
        except ServiceNotRunning:
            return set()
        # `process:<host>/<pid>`, and `seen:<host>` with a time: a container that was replaced may still be listed.
        seen = {name.partition(":")[2]: float(at) for name, at in fields.items() if name.startswith("seen:")}
        own = f"process:{max(seen, key=lambda host: seen[host], default='')}/"
        processes = {
            name.rpartition("/")[2]: state.split()[0] for name, state in fields.items() if name.startswith(own)
        }
        return {process for process, state in processes.items() if process.isdigit() and state == "UP"}

    async def _is_dashboard_healthy(self, _: float) -> bool:
        host, port = self._monitor
        with suppress(NoResponse, TimeoutError):
            async with asyncio.timeout(5), HttpClient(host, port) as client:
                response = await client.send(f"GET /healthcheck HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
                return response.status == 200
        return False
