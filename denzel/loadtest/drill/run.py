"""The drill: fault injection under load, and a check that no accepted task is lost.

It is policy over a backend's `kill` and `execute`; results.py makes the report.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from denzel.backends.base import Backend
from denzel.errors import PortTaken, TooFewTasks
from denzel.loadtest import preflight
from denzel.loadtest.api import Api
from denzel.loadtest.client import HttpClient
from denzel.loadtest.drill.faults import FaultInjector
from denzel.loadtest.drill.results import RECEIVER, DrillReport, Outage, summarize
from denzel.loadtest.load import LoadGenerator
from denzel.loadtest.receiver import CallbackReceiver
from denzel.loadtest.request_log import Request, RequestLog
from denzel.loadtest.target import Progress, Target, find_target
from denzel.project import lock
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import FAILURE, Status
from denzel.webhooks.receiver import Behaviour

#: The faults of the receiver, in the order in which they are injected.
_RECEIVER_FAULTS = (Behaviour.SLOW, Behaviour.ERROR, Behaviour.HANG, Behaviour.DOWN)


@dataclass(frozen=True, kw_only=True)
class DrillTimings:
    """Durations, timeouts and intervals of a drill, in seconds."""

    #: The requests before a kill, and those after the recovery, are spread over so long.
    phase: float = 1.5
    receiver_outage: float = 4
    first_task_timeout: float = 60
    recovery_timeout: float = 120
    #: At the end, the time without progress after which the drill gives up.
    idle_timeout: float = 180
    #: Between two attempts of a request, and between two polls of the tasks.
    api_interval: float = 0.25
    poll_interval: float = 0.05


DRILL_TIMINGS = DrillTimings()


def drill(
    project: Project,
    backend: Backend,
    settings: Settings,
    *,
    requests: Sequence[Mapping[str, Any]],
    tasks: int,
    parts: Sequence[str],
    receiver_port: int,
    read_status: Callable[[], Status | None],
    progress: Progress,
    timings: DrillTimings | None = None,
) -> DrillReport:
    """Send so many requests to a running project, kill these parts meanwhile, and report on every task.

    Ctrl-C ends it early, with what was observed until then. Raises ServiceNotRunning, TooFewTasks, RequestUnusable,
    ServiceFailed and PortTaken.
    """
    target = find_target(settings, read_status())
    check_enough(tasks, parts)
    run = DrillRun(
        backend=backend,
        target=target,
        settings=settings,
        requests=requests,
        tasks=tasks,
        receiver_port=receiver_port,
        progress=progress,
        timings=timings or DRILL_TIMINGS,
    )
    with lock.exclusive(project.lock_file):
        return asyncio.run(run.run(parts))


@dataclass(kw_only=True)
class DrillRun:
    """One run of a drill, with so many `tasks`."""

    backend: Backend
    target: Target
    settings: Settings
    requests: Sequence[Mapping[str, Any]]
    tasks: int
    receiver_port: int
    progress: Progress
    timings: DrillTimings
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.requests = [{**request, "callback_uri": ""} for request in self.requests]
        self._log = RequestLog(self.requests, synchronous=False)
        self._receiver = CallbackReceiver(
            self.target.listen,
            self.receiver_port,
            self._log.record_callback,
            secret=self.settings.callback_secret,
            # Longer than it is slow, so that the recovery is seen however early the last callback comes.
            delay=self.timings.receiver_outage * 1.25,
        )
        name = self.settings.compose_name
        self._faults = FaultInjector(self.backend, name, monitor=self.target.monitor, log=self._log)
        self._outages: list[Outage] = []

    async def run(self, parts: Sequence[str]) -> DrillReport:
        """Kill parts one after another, then wait for all tasks; raises the errors of `drill`."""
        # A connection for each attempt, so that each one that fails is counted.
        async with self._receiver, HttpClient(*self.target.api, idle_limit=0) as client:
            address = self._receiver.address(self.target.host, 0)
            api = Api(client, self.requests, server=self.target.api, key=self.target.key, address=address)
            async with LoadGenerator(api, self._log, prefer="respond-async") as self._load:
                self._load.retry(self.timings.api_interval)
                return await self._run(parts)

    async def _run(self, parts: Sequence[str]) -> DrillReport:
        began = self.clock()
        interrupted = False
        try:
            await self._check_first_request()
            stages = list(_stages(parts))
            for done, (part, fault) in enumerate(stages):
                await self._stage(part, fault, share=self._left // (len(stages) - done + 1))
            await self._send_evenly(self._left)
            await self._drain()
        except asyncio.CancelledError:
            interrupted = True
        return summarize(
            self._log, self._outages, requested=self.tasks, seconds=self.clock() - began, interrupted=interrupted
        )

    @property
    def _left(self) -> int:
        """The number of requests that are not sent yet."""
        return self.tasks - len(self._log.requests)

    async def _check_first_request(self) -> None:
        """Send one request alone, so that its errors are not taken for those of a fault."""
        self.progress.doing("Sending a first request")
        timeout = self.timings.first_task_timeout
        if await self._wait(lambda: any(task.has_run for task in self._log.accepted), timeout, sends=1) is None:
            raise preflight.not_ended(timeout)
        first = self._log.requests[0]
        if first.status == FAILURE:
            raise preflight.failed(first.reason)
        if await self._wait(lambda: bool(first.callbacks), timeout) is None:
            raise preflight.not_called_back(self._receiver.address(self.target.host, 0), timeout)

    async def _stage(self, part: str, fault: Behaviour | None, *, share: int) -> None:
        """Send a share of the requests before, during and after one outage; a `fault` is one of the receiver."""
        quarter = share // 4
        # Recovery is seen by a request that was accepted after the kill, and waits in the queue behind those before it.
        await self._wait(lambda: self._unfinished() <= quarter, self.timings.idle_timeout)
        await self._send_evenly(quarter)
        # Nothing is killed while the api may be about to refuse one.
        await self._wait(lambda: len(self._log.accepted) == len(self._log.requests), self.timings.idle_timeout)
        # Most of these are in flight when the part is killed.
        self._load.send(quarter)
        outage = await self._disturb_receiver(fault, quarter) if fault else await self._kill(part, quarter)
        self._outages.append(outage)
        self.progress.note(
            f"    {outage.part} did not recover within {self.timings.recovery_timeout:.0f} s"
            if outage.over is None
            else f"    recovered in {outage.over - outage.began:.1f} s"
        )
        await self._send_evenly(quarter)

    async def _kill(self, part: str, sends: int) -> Outage:
        self.progress.doing(f"Killing {part}")
        # Before the kill: when that has been carried out, the part may be restarting already.
        began = self.clock()
        has_recovered = await self._faults.kill(part)
        killed = self.clock()
        # One at once, even if the part has recovered before the first check.
        self._load.send(1)
        over = await self._wait(lambda: has_recovered(killed), self.timings.recovery_timeout, sends=sends - 1)
        return Outage(part=part, began=began, over=over)

    async def _disturb_receiver(self, fault: Behaviour, sends: int) -> Outage:
        """Inject a fault of the receiver, send requests meanwhile, and let it recover."""
        self.progress.doing(f"The {RECEIVER} {'is ' * (fault is not Behaviour.ERROR)}{fault.value}")
        await self._receiver.set_behaviour(fault)
        await self._send_evenly(sends, over=self.timings.receiver_outage)
        # Another program may have its port for a while.
        if await self._wait(self._restore_receiver, self.timings.recovery_timeout) is None:
            raise PortTaken(
                f"The receiver did not get its port {self._receiver.port} back"
                f" within {self.timings.recovery_timeout:.0f} s: another program has it.",
                hint="Drill again, and name a port that no other program takes: --port",
            )
        began = self.clock()
        over = await self._wait(lambda: self._was_called_back(began), self.timings.recovery_timeout)
        return Outage(part=f"{RECEIVER} ({fault.value})", began=began, over=over, of_receiver=True)

    async def _restore_receiver(self) -> bool:
        with suppress(PortTaken):
            await self._receiver.set_behaviour(Behaviour.ACCEPT)
            return True
        return False

    async def _drain(self) -> None:
        """Wait for every task and its callback, as long as there is progress."""
        self.progress.doing("Waiting for every task, and its callback")
        seen: tuple[int, int, int] | None = None
        changed = self.clock()
        while self.clock() - changed < self.timings.idle_timeout:
            tasks = self._log.accepted
            if len(tasks) == self.tasks and all(_is_final(task) for task in tasks):
                return
            # Raises when a request is unusable.
            self._load.send(0)
            counts = len(tasks), self._unfinished(), sum(bool(task.own_callbacks) for task in tasks)
            if counts != seen:
                seen, changed = counts, self.clock()
            await asyncio.sleep(self.timings.poll_interval)

    def _unfinished(self) -> int:
        return sum(task.ended is None for task in self._log.accepted)

    def _was_called_back(self, since: float) -> bool:
        return any(callback.when > since for request in self._log.requests for callback in request.callbacks)

    async def _send_evenly(self, sends: int, *, over: float | None = None) -> None:
        """Send so many requests at regular intervals, over a phase or so many seconds."""
        seconds = self.timings.phase if over is None else over
        began = self.clock()
        for number in range(1, sends + 1):
            self._load.send(1)
            await asyncio.sleep(max(0.0, began + seconds * number / sends - self.clock()))
        await asyncio.sleep(max(0.0, began + seconds - self.clock()))

    async def _wait(
        self, condition: Callable[[], bool | Awaitable[bool]], timeout: float, *, sends: int = 0
    ) -> float | None:
        """The time at which a condition became true, None after the timeout. Sends requests meanwhile."""
        began = self.clock()
        due = _backoff(sends, timeout)
        while not (await done if isinstance(done := condition(), Awaitable) else done):
            passed = self.clock() - began
            if passed > timeout:
                return None
            while due and due[0] <= passed:
                self._load.send(1)
                due.pop(0)
            self._load.send(0)
            await asyncio.sleep(self.timings.poll_interval)
        return self.clock()


def _is_final(task: Request) -> bool:
    """True when the state of a task can no longer change."""
    return task.is_gone or (task.is_settled and bool(task.own_callbacks))


def min_tasks(parts: Sequence[str]) -> int:
    """The fewest requests with which one is sent before, during and after each outage."""
    return 1 + 4 * (len(list(_stages(parts))) + 1)


def check_enough(tasks: int, parts: Sequence[str]) -> None:
    """Raise TooFewTasks when so many requests cannot show that each of these parts has recovered."""
    minimum = min_tasks(parts)
    if tasks < minimum:
        raise TooFewTasks(
            f"{tasks} tasks are too few to see each part recover.",
            hint=f"Pass --tasks {minimum} or more, or fewer parts with --kill.",
        )


def _stages(parts: Sequence[str]) -> Iterator[tuple[str, Behaviour | None]]:
    for part in parts:
        if part == RECEIVER:
            yield from ((part, fault) for fault in _RECEIVER_FAULTS)
        else:
            yield part, None


def _backoff(count: int, timeout: float) -> list[float]:
    """So many times within a timeout, at growing intervals, as the time to a recovery is unknown."""
    first = 0.2
    return [first * (timeout / first) ** (step / count) - first for step in range(count)]
