"""Supervision of the predicting processes: starts and replaces them, renews their leases, settles what a dead one had."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import NamedTuple

from redis import RedisError

from app.serving.heartbeat import BEAT_INTERVAL, Heartbeat
from app.serving.store.claims import CLAIM_RENEW_INTERVAL, Claims, DeadLettered, HostClaims, new_owner
from app.serving.store.workers import HEARTBEAT_INTERVAL, WorkerRegistry
from app.serving.worker.batching.place import Place, make_places
from app.serving.worker.batching.scoreboard import ALL, NOT_STARTED, Activity, Clock, Slot, make_slots
from app.serving.worker.settlements import Settlements

log = logging.getLogger(__name__)

#: Seconds between two looks at the processes: while tasks are run, and when none were for a second.
LOOK_INTERVAL = 0.01
IDLE_LOOK_INTERVAL = 0.1

#: Seconds between two rounds of supervision.
SUPERVISION_INTERVAL = 1.0

#: Seconds that a process may keep the place at the queue while it runs tasks, or without a sign of life.
MAX_HOLD = 0.02
MAX_SILENCE = 3.0

#: Rounds in a row without a sign of life after which a process that waits at the queue hangs. Rounds are counted, and
#: not seconds: all may have been stopped together.
MAX_SILENT_ROUNDS = 30

#: Seconds that a task may hold up those behind it in its batch, until they are requeued.
HEAD_OF_LINE_LIMIT = 1.0

#: Seconds until another process loads the model, after one has died of that; and between two starts in any case.
PAUSE_AFTER_DEATH = 5.0
START_INTERVAL = 1.0


class Running(NamedTuple):
    """A task that a process runs now, and since how many seconds."""

    task_id: str
    pid: int
    seconds: float


class Cancelled(NamedTuple):
    """A cancelled task, and True when its process was killed for it."""

    task_id: str
    terminated: bool


@dataclass(kw_only=True)
class Member:
    """One of the processes, or the place of one that is about to be started."""

    slot: Slot
    place: Place
    owner: str = field(default_factory=new_owner)
    process: BaseProcess | None = None
    next_start: float = 0.0
    #: The task for which the process was killed, as it was cancelled; True for one that took too long.
    cancelled: str = ""
    is_overdue: bool = False
    is_told_to_stop: bool = False
    silent_rounds: int = 0

    @property
    def pid(self) -> int:
        """The id of the process; 0 for none."""
        return (self.process.pid or 0) if self.process is not None else 0

    def kill(self) -> None:
        """Kill the process: whatever it does."""
        if self.process is not None:
            self.process.kill()


class Processes:
    """The predicting processes of one worker, supervised by a thread: the main one is Celery's, and may be busy
    reconnecting while tasks run on.
    """

    def __init__(
        self,
        number: int,
        run: Callable[..., None],
        *,
        worker: str,
        claims: HostClaims,
        claims_of: Callable[[str], Claims],
        settlements: Settlements,
        registry: WorkerRegistry,
        heartbeat: Heartbeat,
        max_tasks: int,
        time_limit: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """A process calls `run(owner=, slot=, place=, processes=)`, with batches of `max_tasks` tasks at most.

        `claims_of` makes the claims of an owner. A task that runs for more than `time_limit` seconds is ended.
        """
        self._number = number
        self._run = run
        self._worker = worker
        self._claims = claims
        self._claims_of = claims_of
        self._settlements = settlements
        self._registry = registry
        self._heartbeat = heartbeat
        self._time_limit = time_limit
        self._clock = clock
        slots, places = make_slots(number, max_tasks, clock), make_places(number)
        self._members = [Member(slot=slot, place=place) for slot, place in zip(slots, places, strict=True)]
        self._ended_before = 0
        self._ended_loading: dict[int, int] = {}
        self._registered: tuple[list[int], list[int]] | None = None
        self._next: dict[str, float] = {}
        self._active_until = 0.0
        self._is_stopping = threading.Event()
        self._over = threading.Event()
        #: What the dashboard is to be shown: tasks that were cancelled, or became dead letters.
        self.events: SimpleQueue[Cancelled | DeadLettered] = SimpleQueue()

    def start(self) -> None:
        """Start all, and the thread that supervises them."""
        # The collector writes to the objects that it marks, and a page that is written to is shared no more.
        gc.collect()
        gc.freeze()
        # At once: what this worker had before it was restarted comes first.
        self._renew()
        for member in self._members:
            self._start(member)
        threading.Thread(target=self._supervise_for_ever, name="supervision", daemon=True).start()

    def stop(self) -> None:
        """Let each process end after its batch, and start no other. Returns at once."""
        self._is_stopping.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all have ended, and what they had is settled; False when that takes longer."""
        return self._over.wait(timeout)

    def kill(self) -> None:
        """Kill all, and requeue what they had. Where Redis is away, the worker does so after its restart."""
        self._is_stopping.set()
        for member in self._members:
            member.kill()
        for member in self._members:
            with suppress(RedisError):
                self._claims_of(member.owner).requeue_all()

    @property
    def pids(self) -> list[int]:
        """The ids of the processes."""
        return [member.pid for member in self._members if member.pid]

    @property
    def ended(self) -> int:
        """The number of tasks that all processes have run so far."""
        return self._ended_before + sum(member.slot.ended for member in self._members)

    def running(self) -> list[Running]:
        """The tasks that the processes run now."""
        return [
            Running(task_id, member.pid, view.seconds)
            for member in self._members
            if member.pid and (view := member.slot.view()).index != NOT_STARTED
            for task_id in view.suspects
        ]

    def _supervise_for_ever(self) -> None:
        while not self._over.is_set():
            is_active = self._clock() < self._active_until
            self._is_stopping.wait(LOOK_INTERVAL if is_active else IDLE_LOOK_INTERVAL)
            try:
                self._look()
            except Exception:
                # Without supervision, nothing would be renewed, and all that runs would run elsewhere, too.
                log.exception("a round of supervision failed")
            if self._is_stopping.is_set():
                time.sleep(LOOK_INTERVAL)

    def _look(self) -> None:
        """Replace what died, and let others go to the queue when the process there is held up."""
        for member in self._members:
            if member.process is None:
                if not self._is_stopping.is_set() and self._clock() >= member.next_start:
                    self._start(member)
            elif not member.process.is_alive():
                self._bury(member)
            elif self._is_stopping.is_set():
                self._tell_to_stop(member)
            elif member.slot.activity is Activity.RUNNING:
                self._active_until = self._clock() + SUPERVISION_INTERVAL
                if member.slot.seconds > MAX_HOLD:
                    member.place.release()
        if self._is_due("beat", BEAT_INTERVAL):
            self._heartbeat.beat()
        if self._is_due("supervise", SUPERVISION_INTERVAL):
            for member in self._members:
                self._supervise(member)
            self._settle()
        if self._is_due("renew", CLAIM_RENEW_INTERVAL):
            self._renew()
        self._register()
        if self._is_stopping.is_set() and not self.pids:
            self._settle()
            self._over.set()

    def _is_due(self, what: str, interval: float) -> bool:
        now = self._clock()
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + interval
        return True

    def _start(self, member: Member) -> None:
        self._ended_before += member.slot.ended
        member.slot.reset()
        member.owner = new_owner()
        member.cancelled, member.is_overdue, member.silent_rounds = "", False, 0
        member.next_start = self._clock() + START_INTERVAL
        arguments = {"owner": member.owner, "slot": member.slot, "place": member.place, "processes": self._number}
        context = multiprocessing.get_context("fork")
        name = f"Process-{self._members.index(member) + 1}"
        member.process = context.Process(target=self._run_and_exit, name=name, kwargs=arguments)
        member.process.start()

    def _run_and_exit(self, **arguments: object) -> None:
        code = 1
        try:
            self._run(**arguments)
            code = 0
        except BaseException:
            log.exception("a predicting process failed")
        finally:
            logging.shutdown()
            # Whatever threads the pipeline has started.
            os._exit(code)

    def _tell_to_stop(self, member: Member) -> None:
        if member.slot.activity is Activity.LOADING:
            member.kill()
        elif not member.is_told_to_stop and member.process is not None:
            member.is_told_to_stop = True
            member.process.terminate()

    def _bury(self, member: Member) -> None:
        """Settle what a process had that has ended; its place is to be filled again."""
        process, view = member.process, member.slot.view()
        assert process is not None
        code = process.exitcode or 0
        member.place.release()
        if view.activity is Activity.LOADING:
            self._ended_loading[member.pid] = code
            member.next_start = self._clock() + PAUSE_AFTER_DEATH
        elif not code:
            # It has run WORKER_MAX_TASKS, or holds WORKER_MAX_MB.
            member.next_start = 0.0
        if code and not self._is_stopping.is_set():
            log.error("process %d ended with %s", member.pid, _how(code))
        suspects = view.suspects if view.activity is Activity.RUNNING and code and not member.cancelled else []
        overdue = suspects[0] if member.is_overdue and len(suspects) == 1 else ""
        if overdue:
            log.error("task %s took longer than TASK_TIME_LIMIT", overdue)
        self._settlements.died(member.owner, [] if overdue else suspects, overdue=overdue)
        if member.cancelled:
            self.events.put(Cancelled(member.cancelled, terminated=True))
        process.close()
        member.process = None
        self._settle()

    def _supervise(self, member: Member) -> None:
        view = member.slot.view()
        if view.activity is Activity.WAITING:
            is_silent = member.slot.seconds > MAX_SILENCE
            member.silent_rounds = member.silent_rounds + 1 if is_silent else 0
            if is_silent:
                member.place.release()
            if member.silent_rounds >= MAX_SILENT_ROUNDS:
                log.error("process %d hangs at the queue; killing it", member.pid)
                member.kill()
        if view.activity is not Activity.RUNNING or not view.batch or view.index == NOT_STARTED:
            return
        if self._time_limit is not None and view.seconds > self._time_limit and view.suspects:
            member.is_overdue = True
            member.kill()
        elif view.seconds > HEAD_OF_LINE_LIMIT:
            self._settlements.requeue(member.owner, member.slot.truncate())

    def _renew(self) -> None:
        living = {member.owner: member.slot.epoch for member in self._members}
        living |= dict.fromkeys(self._settlements.owners, 0)
        try:
            renewed = self._claims.renew(living, [running.task_id for running in self._with_batches()])
        except RedisError as error:
            log.warning("the claims on running tasks could not be renewed: %s", error)
            return
        for task in renewed.dead_lettered:
            self.events.put(task)
        for task_id in renewed.cancelled:
            self._cancel(task_id)

    def _with_batches(self) -> list[Running]:
        return [
            Running(task_id, member.pid, 0.0)
            for member in self._members
            if member.pid and (view := member.slot.view()).activity is Activity.RUNNING
            for task_id in view.batch
        ]

    def _cancel(self, task_id: str) -> None:
        """Kill the process of a cancelled task when the task runs; else let the process leave it out."""
        for member in self._members:
            view = member.slot.view()
            if task_id not in view.batch or not member.pid:
                continue
            if view.index == ALL or task_id in view.suspects:
                log.info("task %s was cancelled; killing the process that runs it", task_id)
                member.cancelled = task_id
                member.kill()
            elif view.index < view.batch.index(task_id):
                self.events.put(Cancelled(task_id, terminated=False))
                self._settlements.requeue(member.owner, member.slot.truncate())

    def _settle(self) -> None:
        for task in self._settlements.flush():
            self.events.put(task)

    def _register(self) -> None:
        """Register the processes that have the model, at each change and every HEARTBEAT_INTERVAL seconds."""
        loading = [one.pid for one in self._members if one.pid and one.slot.activity is Activity.LOADING]
        up = [one.pid for one in self._members if one.pid and one.pid not in loading]
        if (up, loading) == self._registered and not self._is_due("register", HEARTBEAT_INTERVAL):
            return
        self._next["register"] = self._clock() + HEARTBEAT_INTERVAL
        self._registered = up, loading
        try:
            self._registry.heartbeat(self._worker, up=up, loading=loading, ended=self._ended_loading)
            self._ended_loading = {}
        except RedisError as error:
            log.warning("the worker could not be registered: %s", error)


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


