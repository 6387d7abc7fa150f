"""The drill: requests are sent while one part after another is killed, and every accepted one must have its result.

What it does is policy over a backend's `kill` and `execute`; what it saw is counted in tally.py.
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
from denzel.loadtest.drill.load import Api, Load
from denzel.loadtest.drill.receiver import Behaviour, Receiver
from denzel.loadtest.drill.results import RECEIVER, DrillReport, Outage, count
from denzel.loadtest.target import find_target
from denzel.project import lock
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import FAILURE, Status

#: The ways in which a receiver can be away.
_MOODS = (Behaviour.FAILING, Behaviour.SILENT, Behaviour.CLOSED)


@dataclass(frozen=True, kw_only=True)
class DrillTimes:
    """Seconds: how long a drill does what, and how long it waits."""

    #: The requests before a kill, and those after the recovery, are spread over so long.
    beat: float = 1.5
    #: A receiver is away for so long.
    away: float = 4
    #: The first task must be done, and a part recover, within so long.
    first: float = 60
    recovery: float = 120
    #: At the end, the drill gives up when nothing more has come for so long.
    patience: float = 180
    #: Between two tries of a request, and between two looks.
    pause: float = 0.25
    look: float = 0.05


TIMES = DrillTimes()


class DrillProgress(Protocol):
    """Who is told what the drill is doing."""

    def doing(self, text: str) -> None:
        """The drill begins something."""

    def note(self, text: str) -> None:
        """A remark on it."""


def drill(
    project: Project,
    backend: Backend,
    settings: Settings,
    *,
    requests: Sequence[Mapping[str, Any]],
    tasks: int,
    parts: Sequence[str],
    receiver_port: int,
    look: Callable[[], Status | None],
    progress: DrillProgress,
    times: DrillTimes | None = None,
) -> DrillReport:
    """Send so many requests to a running project, kill these parts meanwhile, and say what became of all of them.

    Ctrl-C ends it early, with what it has seen. Raises ServiceNotRunning, TooFewTasks, RequestUnusable, ServiceFailed
    and PortTaken.
    """
    times = times or TIMES
    target = find_target(settings, look())
    api = Api(*target.api, key=target.key)
    with ExitStack() as stack:
        stack.enter_context(lock.exclusive(project.lock_file))
        receiver = stack.enter_context(Receiver(target.listen, receiver_port, secret=settings.callback_secret))
        load = stack.enter_context(
            Load(
                api,
                requests,
                lambda number: receiver.address(target.host, number),
                called_back=lambda: {arrival.task_id for arrival in receiver.arrivals},
                pause=times.pause,
            )
        )
        course = DrillRun(
            load,
            receiver,
            FaultInjector(
                backend,
                settings.compose_name,
                monitor=target.monitor,
                tasks=lambda: load.tasks,
            ),
            tasks=tasks,
            progress=progress,
            times=times,
        )
        return course.run(parts, callback=receiver.address(target.host, 0))


class DrillRun:
    """One drill on its way."""

    def __init__(
        self,
        load: Load,
        receiver: Receiver,
        kills: FaultInjector,
        *,
        tasks: int,
        progress: DrillProgress,
        times: DrillTimes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._receiver = receiver
        self._kills = kills
        self._tasks = tasks
        self._progress = progress
        self._times = times
        self._clock = clock
        self._outages: list[Outage] = []

    def run(self, parts: Sequence[str], *, callback: str) -> DrillReport:
        """Kill them one after another, and wait for all tasks; `callback` is where callbacks go, for a message.

        Raises TooFewTasks, before anything is sent, RequestUnusable, ServiceFailed and PortTaken.
        """
        check_enough(self._tasks, parts)
        began = self._clock()
        interrupted = False
        try:
            self._first(callback)
            stages = list(_stages(parts))
            for done, (part, mood) in enumerate(stages):
                self._stage(part, mood, share=(self._tasks - self._load.ordered) // (len(stages) - done + 1))
            self._steadily(self._tasks - self._load.ordered)
            self._settle()
        except KeyboardInterrupt:
            interrupted = True
        return count(
            tasks=self._load.tasks,
            arrivals=self._receiver.arrivals,
            outages=self._outages,
            refused=self._load.refused,
            wanted=self._tasks,
            seconds=self._clock() - began,
            interrupted=interrupted,
        )

    def _first(self, callback: str) -> None:
        """One task from end to end, before anything is killed: what fails now fails for another reason."""
        self._progress.doing("Sending a first request")
        if self._wait(lambda: any(task.completed for task in self._load.tasks), self._times.first, sends=1) is None:
            raise preflight.not_ended(self._times.first)
        first = self._load.tasks[0]
        if first.status == FAILURE:
            raise preflight.failed(first.reason)
        if self._wait(lambda: bool(self._receiver.arrivals), self._times.first) is None:
            raise preflight.not_called_back(callback, self._times.first)

    def _stage(self, part: str, mood: Behaviour | None, *, share: int) -> None:
        """Send a share of the requests before, during and after one outage."""
        quarter = share // 4
        # A recovery is seen by a request that was accepted after the kill, and has to wait for those before it.
        self._wait(lambda: self._unfinished() <= quarter, self._times.patience)
        self._steadily(quarter)
        # Most of what is sent now is on its way when the part is killed.
        self._load.send(quarter)
        outage = self._leave(mood, quarter) if mood else self._kill(part, quarter)
        self._outages.append(outage)
        self._progress.note(
            f"    {outage.part} did not recover within {self._times.recovery:.0f} s"
            if outage.over is None
            else f"    recovered in {outage.over - outage.began:.1f} s"
        )
        self._steadily(quarter)

    def _kill(self, part: str, sends: int) -> Outage:
        self._progress.doing(f"Killing {part}")
        # From the order to kill on: when it has been carried out, the part may be on its way back already.
        began = self._clock()
        recovered = self._kills.kill(part)
        killed = self._clock()
        # One at once, even if it is back before anybody has looked.
        self._load.send(1)
        over = self._wait(lambda: recovered(killed), self._times.recovery, sends=sends - 1)
        return Outage(part=part, began=began, over=over)

    def _leave(self, mood: Behaviour, sends: int) -> Outage:
        """Let the receiver be away, and come back."""
        part = f"{RECEIVER} ({mood.value})"
        self._progress.doing(f"The {RECEIVER} {'is ' * (mood is not Behaviour.FAILING)}{mood.value}")
        self._receiver.turn(mood)
        self._steadily(sends, over=self._times.away)
        self._come_back()
        began = self._clock()
        over = self._wait(
            lambda: any(arrival.when > began for arrival in self._receiver.arrivals), self._times.recovery
        )
        return Outage(part=part, began=began, over=over, of_receiver=True)

    def _come_back(self) -> None:
        """Let the receiver take callbacks again; another program may have its port for a while."""
        began = self._clock()
        while True:
            try:
                self._receiver.turn(Behaviour.TAKING)
            except PortTaken:
                if self._clock() - began > self._times.recovery:
                    raise PortTaken(
                        f"The receiver did not get its port {self._receiver.port} back"
                        f" within {self._times.recovery:.0f} s: another program has it.",
                        hint="Drill again, and name a port that no other program takes: --port",
                    ) from None
                time.sleep(self._times.look)
            else:
                return

    def _settle(self) -> None:
        """Wait for every task and callback, as long as any still comes."""
        self._progress.doing("Waiting for every task, and its callback")
        seen: tuple[int, int, int] | None = None
        moved = self._clock()
        while self._clock() - moved < self._times.patience:
            tasks = self._load.tasks
            called_back = {arrival.task_id for arrival in self._receiver.arrivals}
            if len(tasks) == self._tasks and all(task.is_through(called_back) for task in tasks):
                return
            self._load.send(0)
            now = len(tasks), sum(task.ended is not None for task in tasks), len(called_back)
            if now != seen:
                seen, moved = now, self._clock()
            time.sleep(self._times.look)

    def _unfinished(self) -> int:
        return sum(task.ended is None for task in self._load.tasks)

    def _steadily(self, sends: int, *, over: float | None = None) -> None:
        """Send so many requests, evenly spread."""
        seconds = self._times.beat if over is None else over
        began = self._clock()
        for number in range(1, sends + 1):
            self._load.send(1)
            time.sleep(max(0.0, began + seconds * number / sends - self._clock()))
        time.sleep(max(0.0, began + seconds - self._clock()))

    def _wait(self, condition: Callable[[], bool], within: float, *, sends: int = 0) -> float | None:
        """When the condition came true; None when it did not. Sends so many requests meanwhile, ever more seldom."""
        began = self._clock()
        due = _moments(sends, within)
        while not condition():
            passed = self._clock() - began
            if passed > within:
                return None
            while due and due[0] <= passed:
                self._load.send(1)
                due.pop(0)
            self._load.send(0)
            time.sleep(self._times.look)
        return self._clock()


def fewest_tasks(parts: Sequence[str]) -> int:
    """How many requests it takes to send one before, during and after each outage."""
    return 1 + 4 * (len(list(_stages(parts))) + 1)


def check_enough(tasks: int, parts: Sequence[str]) -> None:
    """Raise TooFewTasks when so many requests cannot show that each of these parts has recovered."""
    fewest = fewest_tasks(parts)
    if tasks < fewest:
        raise TooFewTasks(
            f"{tasks} tasks are too few to see each part recover.",
            hint=f"Pass --tasks {fewest} or more, or fewer parts with --kill.",
        )


def _stages(parts: Sequence[str]) -> Iterator[tuple[str, Behaviour | None]]:
    for part in parts:
        if part == RECEIVER:
            yield from ((part, mood) for mood in _MOODS)
        else:
            yield part, None


def _moments(number: int, within: float) -> list[float]:
    """So many moments of a time, ever farther apart: nobody knows how long it will take."""
    first = 0.2
    return [first * (within / first) ** (step / number) - first for step in range(number)]
