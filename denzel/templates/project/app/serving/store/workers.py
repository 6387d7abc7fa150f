"""Registry of workers: the state that each process reports, merged into one for each worker, with a heartbeat."""

from __future__ import annotations

import enum
import json
import signal
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from app.serving.store import keys, scripts

#: Seconds between two heartbeats of a worker, and after which a silent one counts as gone.
HEARTBEAT_INTERVAL = 5.0
REPORT_TTL = 20

#: The cause of a death that left no other.
DIED = "a process died while loading the model"


class WorkerState(enum.Enum):
    """The state of a worker, or of one of its processes."""

    LOADING = "LOADING"
    UP = "UP"
    ERROR = "ERROR"


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """One worker: UP when one of its processes has the model, else ERROR with the cause when one could not load it."""

    name: str
    state: WorkerState
    cause: str = ""


class WorkerRegistry:
    """The workers in one Redis. Every method raises redis.RedisError when Redis is away."""

    def __init__(self, redis: Redis, *, host: str | None = None) -> None:
        self._redis = redis
        self._host = host or socket.gethostname()
        self._report_process, self._heartbeat, self._deregister = (
            scripts.register(redis, f"workers/{name}") for name in ("report_process", "heartbeat", "deregister")
        )

    def heartbeat(
        self, name: str, *, up: Collection[int], loading: Collection[int], ended: Mapping[int, int] | None = None
    ) -> None:
        """Renew the report of the worker `name`, given the ids of its processes with and still without the model.

        `ended` are the exit codes of those that ended, as far as they are known; below 0 it was a signal.
        """
        self._renew(self._redis, name, up, loading, ended or {})

    def begin_preload(self, name: str, pid: int, cause: str = "") -> None:
        """Replace what an earlier start of the worker `name` has reported: its main process loads the model itself.

        The cause why an earlier one could not outlives its death. Nobody sees one report without the other.
        """
        with self._redis.pipeline() as pipe:
            self._remove(pipe, name)
            if cause:
                self._report(pipe, name, pid, WorkerState.ERROR, cause)
            self._renew(pipe, name, (), {pid}, {})
            pipe.execute()

    def report_process(
        self, name: str, pid: int, state: WorkerState, cause: str = "", *, hint: str = "", warnings: str = ""
    ) -> None:
        """Report at once that a process of the worker `name` is UP, or could not load the model, why, and what to do.

        In the report, the hint is a second line of the cause.
        `warnings`, those of its load_model as JSON, take the place of what another process has reported.
        """
        self._report(self._redis, name, pid, state, f"{cause}\n{hint}" if hint else cause, warnings)

    def remove_process(self, name: str, pid: int) -> None:
        """Remove the report of a process of the worker `name`: it will not predict."""
        self._redis.hdel(keys.worker(name), f"process:{self._host}/{pid}")

    def deregister(self, name: str) -> None:
        """Remove the report of the worker `name` on this host: it stops."""
        self._remove(self._redis, name)

    def read(self) -> list[WorkerReport]:
        """The workers that are alive, by name."""
        names: list[str] = sorted(self._redis.smembers(keys.WORKERS))  # type: ignore[arg-type]
        with self._redis.pipeline() as pipe:
            for name in names:
                pipe.hmget(keys.worker(name), ["state", "cause"])
            answers = pipe.execute()
        return read_reports(names, answers)

    def _renew(
        self, client: Redis, name: str, up: Collection[int], loading: Collection[int], ended: Mapping[int, int]
    ) -> None:
        causes = {"": DIED, **{str(pid): how_load_model_ended(code) for pid, code in ended.items()}}
        self._heartbeat(
            keys=[keys.worker(name), keys.WORKERS],
            args=[
                *(REPORT_TTL, name, self._host),
                *(json.dumps(sorted(up)), json.dumps(sorted(loading)), json.dumps(causes)),
            ],
            client=client,
        )

    def _report(self, client: Redis, name: str, pid: int, state: WorkerState, cause: str, warnings: str = "") -> None:
        self._report_process(
            keys=[keys.worker(name)], args=[REPORT_TTL, self._host, pid, state.value, cause, warnings], client=client
        )

    def _remove(self, client: Redis, name: str) -> None:
        self._deregister(keys=[keys.worker(name), keys.WORKERS], args=[name, self._host], client=client)


def read_reports(names: list[str], answers: list[Any]) -> list[WorkerReport]:
    """The reports of these workers, from the `state` and `cause` of each."""
    return [
        WorkerReport(name=name, state=WorkerState(state), cause=cause.partition("\n")[0])
        for name, (state, cause) in zip(names, answers, strict=True)
        if state
    ]


def how_load_model_ended(code: int) -> str:
    """The cause to report for a process that ended so while it loaded the model: an exit code, below 0 for a signal."""
    if code >= 0:
        return f"load_model ended its process with exit code {code}"
    known = {one.value: f" ({one.name})" for one in signal.Signals}
    memory = ", as when memory runs out" if -code == signal.SIGKILL else ""
    return f"load_model ended its process with signal {-code}{known.get(-code, '')}{memory}"
