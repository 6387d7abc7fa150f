"""The drill: fault injection under load, and a check that no accepted task is lost.

It is policy over a backend's `kill` and `execute`; results.py makes the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from denzel.backends.base import Backend
from denzel.errors import PortTaken, TooFewTasks
from denzel.loadtest import preflight
from denzel.loadtest.drill.faults import FaultInjector
from denzel.loadtest.drill.load import ApiClient, Load
from denzel.loadtest.drill.receiver import Behaviour, Receiver
from denzel.loadtest.drill.results import RECEIVER, DrillReport, Outage, summarize
from denzel.loadtest.target import find_target
from denzel.project import lock
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import FAILURE, Status

#: The faults of the receiver, in the order in which they are injected.
_RECEIVER_FAULTS = (Behaviour.ERROR, Behaviour.HANG, Behaviour.DOWN)


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


class DrillProgress(Protocol):
    """Progress of a drill, as it is shown."""

    def doing(self, text: str) -> None:
        """Show a step that begins."""

    def note(self, text: str) -> None:
        """Show a remark on it."""


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
    progress: DrillProgress,
    timings: DrillTimings | None = None,
) -> DrillReport:
    """Send so many requests to a running project, kill these parts meanwhile, and report on every task.

    Ctrl-C ends it early, with what was observed until then. Raises ServiceNotRunning, TooFewTasks, RequestUnusable,
    ServiceFailed and PortTaken.
    """
    timings = timings or DRILL_TIMINGS
    target = find_target(settings, read_status())
    api = ApiClient(*target.api, key=target.key)
    with ExitStack() as stack:
        stack.enter_context(lock.exclusive(project.lock_file))
        receiver = stack.enter_context(Receiver(target.listen, receiver_port, secret=settings.callback_secret))
        load = stack.enter_context(
            Load(
                api,
                requests,
                lambda number: receiver.address(target.host, number),
                called_back=lambda: {receipt.task_id for receipt in receiver.receipts},
                interval=timings.api_interval,
            )
        )
        faults = FaultInjector(backend, settings.compose_name, monitor=target.monitor, tasks=lambda: load.tasks)
        run = DrillRun(load, receiver, faults, tasks=tasks, progress=progress, timings=timings)
        return run.run(parts, callback_uri=receiver.address(target.host, 0))


class DrillRun:
    """One run of a drill."""

    def __init__(
        self,
        load: Load,
        receiver: Receiver,
        faults: FaultInjector,
        *,
        tasks: int,
        progress: DrillProgress,
        timings: DrillTimings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._receiver = receiver
        self._faults = faults
        self._tasks = tasks
        self._progress = progress
        self._timings = timings
        self._clock = clock
        self._outages: list[Outage] = []

    def run(self, parts: Sequence[str], *, callback_uri: str) -> DrillReport:
        """Kill parts one after another, then wait for all tasks; `callback_uri` is that of the first request.

        Raises TooFewTasks, before anything is sent, RequestUnusable, ServiceFailed and PortTaken.
        """
        check_enough(self._tasks, parts)
        began = self._clock()
        interrupted = False
        try:
            self._check_first_request(callback_uri)
            stages = list(_stages(parts))
            for done, (part, fault) in enumerate(stages):
                self._stage(part, fault, share=(self._tasks - self._load.requested) // (len(stages) - done + 1))
            self._send_evenly(self._tasks - self._load.requested)
            self._drain()
        except KeyboardInterrupt:
            interrupted = True
        return summarize(
            tasks=self._load.tasks,
            receipts=self._receiver.receipts,
            outages=self._outages,
            refused=self._load.refused,
            requested=self._tasks,
            seconds=self._clock() - began,
            interrupted=interrupted,
        )

    def _check_first_request(self, callback_uri: str) -> None:
        """Send one request alone, so that its errors are not taken for those of a fault."""
        self._progress.doing("Sending a first request")
        timeout = self._timings.first_task_timeout
        if self._wait(lambda: any(task.completed for task in self._load.tasks), timeout, sends=1) is None:
            raise preflight.not_ended(timeout)
        first = self._load.tasks[0]
        if first.status == FAILURE:
            raise preflight.failed(first.reason)
        if self._wait(lambda: bool(self._receiver.receipts), timeout) is None:
            raise preflight.not_called_back(callback_uri, timeout)

    def _stage(self, part: str, fault: Behaviour | None, *, share: int) -> None:
        """Send a share of the requests before, during and after one outage; a `fault` is one of the receiver."""
        quarter = share // 4
        # Recovery is seen by a request that was accepted after the kill, and waits in the queue behind those before it.
        self._wait(lambda: self._unfinished() <= quarter, self._timings.idle_timeout)
        self._send_evenly(quarter)
        # Most of these are in flight when the part is killed.
        self._load.send(quarter)
        outage = self._disturb_receiver(fault, quarter) if fault else self._kill(part, quarter)
        self._outages.append(outage)
        self._progress.note(
            f"    {outage.part} did not recover within {self._timings.recovery_timeout:.0f} s"
            if outage.over is None
            else f"    recovered in {outage.over - outage.began:.1f} s"
        )
        self._send_evenly(quarter)

    def _kill(self, part: str, sends: int) -> Outage:
        self._progress.doing(f"Killing {part}")
        # Before the kill: when that has been carried out, the part may be restarting already.
        began = self._clock()
        has_recovered = self._faults.kill(part)
        killed = self._clock()
        # One at once, even if the part has recovered before the first check.
        self._load.send(1)
        over = self._wait(lambda: has_recovered(killed), self._timings.recovery_timeout, sends=sends - 1)
        return Outage(part=part, began=began, over=over)

    def _disturb_receiver(self, fault: Behaviour, sends: int) -> Outage:
        """Inject a fault of the receiver, send requests meanwhile, and let it recover."""
        self._progress.doing(f"The {RECEIVER} {'is ' * (fault is not Behaviour.ERROR)}{fault.value}")
        self._receiver.set_behaviour(fault)
        self._send_evenly(sends, over=self._timings.receiver_outage)
        self._restore_receiver()
        began = self._clock()
        over = self._wait(
            lambda: any(receipt.when > began for receipt in self._receiver.receipts), self._timings.recovery_timeout
        )
        return Outage(part=f"{RECEIVER} ({fault.value})", began=began, over=over, of_receiver=True)

    def _restore_receiver(self) -> None:
        """Let the receiver accept callbacks again; another program may have its port for a while."""
        began = self._clock()
        timeout = self._timings.recovery_timeout
        while True:
            try:
                self._receiver.set_behaviour(Behaviour.ACCEPT)
            except PortTaken:
                if self._clock() - began > timeout:
                    raise PortTaken(
                        f"The receiver did not get its port {self._receiver.port} back"
                        f" within {timeout:.0f} s: another program has it.",
                        hint="Drill again, and name a port that no other program takes: --port",
                    ) from None
                time.sleep(self._timings.poll_interval)
            else:
                return

    def _drain(self) -> None:
        """Wait for every task and its callback, as long as there is progress."""
        self._progress.doing("Waiting for every task, and its callback")
        seen: tuple[int, int, int] | None = None
        changed = self._clock()
        while self._clock() - changed < self._timings.idle_timeout:
            tasks = self._load.tasks
            called_back = {receipt.task_id for receipt in self._receiver.receipts}
            if len(tasks) == self._tasks and all(task.is_final(called_back) for task in tasks):
                return
            # Raises when a request is unusable.
            self._load.send(0)
            counts = len(tasks), sum(task.ended is not None for task in tasks), len(called_back)
            if counts != seen:
                seen, changed = counts, self._clock()
            time.sleep(self._timings.poll_interval)

    def _unfinished(self) -> int:
        return sum(task.ended is None for task in self._load.tasks)

    def _send_evenly(self, sends: int, *, over: float | None = None) -> None:
        """Send so many requests at regular intervals, over a phase or so many seconds."""
        seconds = self._timings.phase if over is None else over
        began = self._clock()
        for number in range(1, sends + 1):
            self._load.send(1)
            time.sleep(max(0.0, began + seconds * number / sends - self._clock()))
        time.sleep(max(0.0, began + seconds - self._clock()))

    def _wait(self, condition: Callable[[], bool], timeout: float, *, sends: int = 0) -> float | None:
        """The time at which a condition became true, None after the timeout. Sends requests meanwhile."""
        began = self._clock()
        due = _backoff(sends, timeout)
        while not condition():
            passed = self._clock() - began
            if passed > timeout:
                return None
            while due and due[0] <= passed:
                self._load.send(1)
                due.pop(0)
            self._load.send(0)
            time.sleep(self._timings.poll_interval)
        return self._clock()


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
