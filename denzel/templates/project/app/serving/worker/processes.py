"""Supervision of the predicting processes: starts, replacements, renewed leases, settlements of deaths."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from redis import RedisError

from app.serving.heartbeat import BEAT_INTERVAL, Heartbeat
from app.serving.store.claims import CLAIM_RENEW_INTERVAL, DeadLettered, HostClaims
from app.serving.store.workers import HEARTBEAT_INTERVAL, WorkerRegistry
from app.serving.worker.batching.place import make_places
from app.serving.worker.batching.scoreboard import ALL, NOT_STARTED, Activity, Clock, make_slots
from app.serving.worker.member import Cancelled, Member, Running
from app.serving.worker.settlements import Settlements

log = logging.getLogger(__name__)

#: Seconds between two looks at the processes: while tasks are run, and when none were for a second.
LOOK_INTERVAL = 0.01
IDLE_LOOK_INTERVAL = 0.1

#: Seconds between two rounds of supervision.
SUPERVISION_INTERVAL = 1.0

#: Seconds that one step of a round may take: without Redis, a look-up of its name takes half a minute.
STEP_TIMEOUT = 60.0

#: Seconds that a process may keep the place at the queue while it runs tasks, or without a sign of life.
MAX_HOLD = 0.02
MAX_SILENCE = 3.0

#: Rounds in a row without a sign of life after which a process that waits at the queue hangs. Rounds are counted, and
#: not seconds: all may have been stopped together.
MAX_SILENT_ROUNDS = 30

#: Seconds that a task may hold up those behind it in its batch, until they are requeued.
HEAD_OF_LINE_LIMIT = 1.0

#: Seconds that killed processes may take to end, and what they had to be requeued. Later, the next start does that.
KILL_TIMEOUT = 3.0

#: Seconds until another process loads the model, after one has died of that; and between two starts in any case.
PAUSE_AFTER_DEATH = 5.0
START_INTERVAL = 1.0


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
        settlements: Settlements,
        registry: WorkerRegistry,
        heartbeat: Heartbeat,
        max_tasks: int,
        time_limit: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """A process calls `run(owner=, slot=, place=)`, with batches of `max_tasks` tasks at most. A task that runs for
        more than `time_limit` seconds is ended.
        """
        self._run = run
        self._worker = worker
        self._claims = claims
        self._settlements = settlements
        self._registry = registry
        self._heartbeat = heartbeat
        self._time_limit = time_limit
        self._clock = clock
        slots, places = make_slots(number, max_tasks, clock), make_places(number)
        self._members = [
            Member(name=f"Process-{number}", slot=slot, place=place)
            for number, (slot, place) in enumerate(zip(slots, places, strict=True), start=1)
        ]
        self._ended_before = 0
        self._ended_loading: dict[int, int] = {}
        self._registered: tuple[list[int], list[int]] | None = None
        self._next: dict[str, float] = {}
        self._active_until = 0.0
        self._step_began = clock()
        self._is_killed = False
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
        for target, name in ((self._supervise_for_ever, "supervision"), (self._beat_for_ever, "heartbeat")):
            threading.Thread(target=target, name=name, daemon=True).start()

    def stop(self) -> None:
        """Let each process end after its batch, and start no other. Returns at once."""
        self._is_stopping.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all have ended, and what they had is settled if Redis is there; False when that takes longer."""
        return self._over.wait(timeout)

    def kill(self) -> None:
        """Kill all, and requeue what they had, if Redis is there."""
        self._is_killed = True
        self._is_stopping.set()
        for member in self._members:
            member.kill()
        self.join(KILL_TIMEOUT)

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
        return [running for member in self._members for running in member.running()]

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

    def _beat_for_ever(self) -> None:
        """Write heartbeats while supervision goes on."""
        while not self._over.wait(BEAT_INTERVAL):
            if self._clock() - self._step_began < STEP_TIMEOUT:
                self._heartbeat.beat()

    def _look(self) -> None:
        """Replace what died, and let others go to the queue when the process there is held up."""
        for member in self._members:
            if member.process is None:
                if not self._is_stopping.is_set() and self._clock() >= member.next_start:
                    self._start(member)
                continue
            pid, code = member.pid, member.bury()
            if code is not None:
                self._settle_death(member, pid, code)
            elif self._is_stopping.is_set():
                member.terminate()
            elif member.slot.activity is Activity.RUNNING:
                self._active_until = self._clock() + SUPERVISION_INTERVAL
                if member.slot.seconds > MAX_HOLD:
                    member.place.release()
        self._step_began = self._clock()
        if self._is_due("supervise", SUPERVISION_INTERVAL):
            for member in self._members:
                if member.pid:
                    self._supervise(member)
            self._settle()
            self._step_began = self._clock()
        if self._is_due("renew", CLAIM_RENEW_INTERVAL):
            self._renew()
            self._step_began = self._clock()
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
        member.next_start = self._clock() + START_INTERVAL
        member.start(self._run)

    def _settle_death(self, member: Member, pid: int, code: int) -> None:
        """Settle what a process had that has ended; its place is to be filled again."""
        # Of whatever exit code: native code and libraries may exit with 0.
        suspects = [] if self._is_killed else member.suspects()
        if member.is_loading:
            self._ended_loading[pid] = code
            member.next_start = self._clock() + PAUSE_AFTER_DEATH
        elif not code and not suspects:
            # It has run WORKER_MAX_TASKS, or holds WORKER_MAX_MB.
            member.next_start = 0.0
        if (code or suspects) and not self._is_stopping.is_set():
            while_it_ran = f" while it ran {', '.join(suspects)}" if suspects else ""
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            log.error("process %d ended with %s%s", pid, how, while_it_ran)
        overdue = suspects.pop() if member.overdue and len(suspects) == 1 else ""
        if overdue:
            log.error("task %s took longer than TASK_TIME_LIMIT", overdue)
        self._settlements.died(member.owner, suspects, overdue=overdue)
        if member.cancelled:
            self.events.put(Cancelled(member.cancelled, terminated=True))
        self._settle()

    def _supervise(self, member: Member) -> None:
        view = member.slot.view()
        if view.activity is Activity.STANDBY:
            # It may have been stopped in the moment when it got the place.
            member.place.release()
        if view.activity is Activity.WAITING:
            is_silent = member.slot.seconds > MAX_SILENCE
            member.silent_rounds = member.silent_rounds + 1 if is_silent else 0
            if is_silent:
                member.place.release()
            if member.silent_rounds >= MAX_SILENT_ROUNDS:
                log.error("process %d hangs at the queue; killing it", member.pid)
                member.kill()
        if view.activity is not Activity.RUNNING or not view.batch or view.position == NOT_STARTED:
            return
        if self._time_limit is not None and view.seconds > self._time_limit and view.suspects:
            member.overdue = view.suspects
            member.kill()
        elif view.seconds > HEAD_OF_LINE_LIMIT:
            self._cut_off(member)

    def _cut_off(self, member: Member) -> None:
        """Requeue what waits behind the task that a process runs."""
        # First: in a later epoch, the process may have taken the same tasks again.
        epoch = member.slot.epoch
        self._settlements.requeue(member.owner, epoch, member.slot.truncate())

    def _renew(self) -> None:
        living = {member.owner: member.slot.epoch for member in self._members}
        living |= dict.fromkeys(self._settlements.owners, 0)
        batches = [task_id for member in self._members if member.pid for task_id in member.slot.view().batch]
        try:
            renewed = self._claims.renew(living, batches)
        except RedisError as error:
            log.warning("the claims on running tasks could not be renewed: %s", error)
            return
        for task in renewed.dead_lettered:
            self.events.put(task)
        for task_id in renewed.cancelled:
            self._cancel(task_id)

    def _cancel(self, task_id: str) -> None:
        """Kill the process of a cancelled task when the task runs; else let the process leave it out."""
        for member in self._members:
            view = member.slot.view()
            if task_id not in view.batch or not member.pid or view.position == NOT_STARTED:
                # Where the batch is about to start, the next renewal returns it again.
                continue
            if view.position == ALL or task_id in view.suspects:
                log.info("task %s was cancelled; killing the process that runs it", task_id)
                member.cancelled = task_id
                member.kill()
            elif view.position < view.batch.index(task_id):
                self.events.put(Cancelled(task_id, terminated=False))
                self._cut_off(member)

    def _settle(self) -> None:
        for task in self._settlements.flush():
            self.events.put(task)

    def _register(self) -> None:
        """Register the processes that have the model, at each change and every HEARTBEAT_INTERVAL seconds."""
        loading = [one.pid for one in self._members if one.pid and one.is_loading]
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
