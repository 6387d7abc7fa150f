"""Fault injection: kills parts of a running project, and detects when they have recovered."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Collection

from denzel.backends.base import Backend
from denzel.errors import CommandFailed, ServiceNotRunning
from denzel.loadtest.drill.results import WORKER, TrackedTask
from denzel.services import Service, worker_key, worker_name

#: True when a part that was killed at this time works again.
HasRecovered = Callable[[float], bool]


class FaultInjector:
    """Kills parts of the project called `name`; `tasks` returns the tasks that it has accepted so far."""

    def __init__(
        self, backend: Backend, name: str, *, monitor: tuple[str, int], tasks: Callable[[], Collection[TrackedTask]]
    ) -> None:
        self._backend = backend
        self._worker_key = worker_key(worker_name(name))
        self._monitor = monitor
        self._tasks = tasks

    def kill(self, part: str) -> HasRecovered:
        """Kill a part, and return once it has ended; raises ServiceNotRunning when there is nothing to kill."""
        if part == WORKER:
            return self._kill_process()
        service = Service(part)
        self._backend.kill(service)
        match service:
            case Service.MONITOR:
                return lambda _: _is_healthy(*self._monitor)
            case Service.API:
                return self._has_accepted
            case _:
                return self._has_completed

    def _kill_process(self) -> HasRecovered:
        """Kill a process that predicts. The worker has recovered when it completes tasks and has a replacement."""
        before = self._processes()
        for process in before:
            try:
                self._backend.execute(Service.DENZEL, ["bash", "-c", f"kill -KILL {process}"])
            except CommandFailed:
                # It has just ended by itself.
                continue
            return lambda killed: self._has_completed(killed) and len(self._processes() - {process}) >= len(before)
        raise ServiceNotRunning("No process of the worker has the model loaded.", hint="denzel status")

    def _has_accepted(self, killed: float) -> bool:
        return any(task.accepted > killed for task in self._tasks())

    def _has_completed(self, killed: float) -> bool:
        """True when a task that was accepted since then is completed."""
        return any(task.completed and task.accepted > killed for task in self._tasks())

    def _processes(self) -> set[str]:
        """The ids of the processes that predict, within the service; none while Redis does not answer."""
        try:
            fields: dict[str, str] = self._backend.redis("HGETALL", self._worker_key)
        except ServiceNotRunning:
            return set()
        # `process:<host>/<pid>`
        processes = {name.rpartition("/")[2]: state.split()[0] for name, state in fields.items() if "/" in name}
        return {process for process, state in processes.items() if process.isdigit() and state == "UP"}


def _is_healthy(host: str, port: int) -> bool:
    """True when the dashboard answers."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
