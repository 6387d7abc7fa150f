"""The parcels of a worker: taking tasks from the queue, several at a time, and handing them to processes of the pool.

Celery's own way costs a few milliseconds for each task. Here those that wait travel together: one step takes them from
the queue, one job of the pool runs them, one step stores how they ended. Each keeps its own claim, count, cancel and
failure. What is no plain task of ours (a time to run at, another client's) goes Celery's own way.

While tasks are quick, one process at a time stays at the queue after its parcel (poller.py), and it takes what comes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from signal import SIGKILL
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded

from app.serving.errors import time_limit_result
from app.serving.store.claims import Claims, DeadLettered
from app.serving.store.messages import TASK_NAME, QueuedTask, parse
from app.serving.store.tasks import FAILURE, Completion, TaskStore
from app.serving.worker.batching import celery_state
from app.serving.worker.batching.events import TaskEvents
from app.serving.worker.batching.in_flight import Batch, InFlight
from app.serving.worker.batching.poller import POLL_TIMEOUT, SESSION_LIMIT, PollGrant
from app.serving.worker.batching.runner import BatchResult, TaskResult
from app.serving.worker.batching.scoreboard import ALL, NOT_STARTED, Scoreboard
from app.serving.worker.batching.settlements import PendingSettlements
from app.serving.worker.batching.sizing import AdaptiveBatchSize
from app.serving.worker.batching.window import BatchWindow

log = logging.getLogger(__name__)

#: Seconds between two calls of `look`.
SUPERVISION_INTERVAL = 1.0

#: Seconds that a task may keep those behind it in its parcel, until they go back to the queue; and seconds for which it
#: runs until the dashboard is told that it does.
HEAD_OF_LINE_LIMIT = 1.0
LONG = 0.5


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """The most tasks for predict_batch and the seconds that they may gather; the seconds that one task may take; after
    how many deliveries it is given up, and for how many seconds a result is kept.
    """

    batch_size: int
    batch_wait: float
    time_limit: float | None
    deliveries: int
    lifetime: int


class Dispatcher:
    """What one worker has taken, and takes. All of it runs in the worker's event loop."""

    def __init__(
        self,
        claims: Claims,
        records: TaskStore,
        scoreboard: Scoreboard,
        limits: BatchSettings,
        run: Callable[..., BatchResult],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`run` is what a pool process calls with a slot of the scoreboard and some items."""
        self.claims = claims
        self._scoreboard = scoreboard
        self._limits = limits
        self._run = run
        self._clock = clock
        self._worker: Any = None
        self._ready: Callable[[], int] = lambda: 0
        self._has_dropped: Callable[[Any], bool] = lambda job: False
        self._parcels = InFlight(claims, scoreboard)
        self._size = AdaptiveBatchSize(batch_size=limits.batch_size, deliveries=limits.deliveries)
        self._window = BatchWindow(scoreboard, limits.batch_wait, clock)
        self._unsaid = PendingSettlements(claims, records, lifetime=limits.lifetime)
        self._visits = 0

    def start(self, worker: Any, *, ready: Callable[[], int], has_dropped: Callable[[Any], bool]) -> None:
        """Take tasks for a worker: `ready` counts its processes with a model, `has_dropped` is asked of its jobs."""
        self._worker = worker
        self._ready = ready
        self._has_dropped = has_dropped
        self._events = TaskEvents(worker, self._clock)
        self._window.start(worker.timer)

    def stop(self) -> None:
        """Take no more."""
        self._ready = lambda: 0
        for parcel in self._parcels:
            self._scoreboard.revoke_grant(parcel.slot)

    def room(self) -> int:
        """For how many processes tasks may be taken now."""
        free = self._free()
        return 0 if free > 0 and self._window.is_open(self._parcels) else free

    def take(self) -> list[str]:
        """Take what waits. Returns the messages that are to go Celery's own way."""
        self._say()
        free = self._free()
        # What was said, and not heard, must not be said again of a task that is taken again.
        if free <= 0 or self._window.open(self._parcels) or self._unsaid.going_back:
            return []
        self._window.close()
        alone, together, others = [], [], []
        sharing = self._ready() if self._size.should_split else 0
        taken = self.claims.take(free=free, limit=self._size.limit(), sharers=sharing)
        for claimed in taken.claimed:
            item = parse(claimed.message, claimed.since)
            if item is None or celery_state.is_revoked(item.task_id):
                others.append(claimed.message)
            elif claimed.deliveries > 1:
                alone.append([item])
            else:
                together.append(item)
        for item in taken.cancelled:
            self._events.cancelled(item)
        for parcel in alone:
            self._send(parcel)
        for parcel in self._size.split(together, free=free - len(alone) - len(others)):
            self._send(parcel, self._stay())
        return others

    def known(self) -> dict[str, str]:
        """The ids of all tasks that this worker has, by the delivery tags of their messages, which are the same."""
        known = {task_id: task_id for task_id in self._parcels.known()}
        known.update(dict.fromkeys(self._unsaid.going_back, ""))
        return known

    @property
    def visit(self) -> int:
        """The number of the visit on which a process is at the queue; 0 while none is."""
        parcel = self._parcels.staying
        return parcel.stay.number if parcel is not None and parcel.stay is not None else 0

    def end_task(self, task_id: str) -> None:
        """A task was cancelled: end its process if it runs there, else let the process leave it out."""
        parcel = self._parcels.find(task_id)
        if parcel is None or parcel.pid is None:
            return
        place, own = self._parcels.place(parcel), parcel.place_of(task_id)
        if place in (ALL, own):
            log.info("task %s was cancelled; ending the process that runs it", task_id)
            parcel.ended_for = task_id
            self._worker.pool.terminate_job(parcel.pid, SIGKILL)
        elif NOT_STARTED < place < own:
            self._events.revoked(parcel.open[task_id], terminated=False)
            self._cut(parcel)

    def look(self) -> None:
        """Give back what waits behind a long task; say again what could not be said. To be called every second."""
        now = self._clock()
        for parcel in self._parcels:
            if self._has_dropped(parcel.job):
                self._close(parcel)
                continue
            began, rests = self._scoreboard.since(parcel.slot)
            if rests or now - began < LONG:
                continue
            self._parcels.learn(parcel)
            if parcel.told != parcel.round:
                parcel.told = parcel.round
                for item in parcel.items:
                    if item.task_id in parcel.open and not item.has_ended:
                        self._events.running(parcel.open[item.task_id])
            if now - began > HEAD_OF_LINE_LIMIT and parcel.pid is not None:
                self._cut(parcel)
        self._say()

    def given_up(self, task: DeadLettered) -> None:
        """A task that is in no parcel was ended, because it killed its process too often: another worker's, or one that
        went Celery's own way.
        """
        self._events.given_up(task)

    def tell(self) -> None:
        """Call it every task_events.TELL_EVERY seconds: the log and the dashboard are told of tasks that ended."""
        self._events.flush()

    def _free(self) -> int:
        return self._ready() - len(self._parcels) - celery_state.reserved()

    def _stay(self) -> PollGrant | None:
        """The leave for a process to stay at the queue. One at a time has it: two would share out what is not worth it.

        What Celery itself was told to revoke, those processes do not know; it remembers that for three hours.
        """
        if (
            self._parcels.staying is not None
            or not self._size.is_cheap
            or celery_state.has_revoked()
            or not self._ready()
        ):
            return None
        self._visits += 1
        return PollGrant(self._visits, self._size.limit())

    def _send(self, items: list[QueuedTask], stay: PollGrant | None = None) -> None:
        parcel = self._parcels.begin(items, stay, self.end_task)
        try:
            parcel.job = self._worker.pool.apply_async(
                self._run,
                (parcel.slot, items, stay),
                accept_callback=lambda pid, _: setattr(parcel, "pid", pid),
                callback=lambda outcome: self._done(parcel, outcome),
                error_callback=lambda error: self._lost(parcel, error),
                timeout=self._timeout(items, stay),
                correlation_id=items[0].task_id,
            )
        finally:
            if parcel.job is None:
                # The pool is being stopped.
                self._close(parcel)

    def _timeout(self, items: list[QueuedTask], stay: PollGrant | None) -> float | None:
        """When the pool ends the process: the last task that it begins must have had its time by then."""
        if self._limits.time_limit is None:
            return None
        in_front = HEAD_OF_LINE_LIMIT + SUPERVISION_INTERVAL if len(items) > 1 or stay else 0
        return self._limits.time_limit + in_front + (SESSION_LIMIT + POLL_TIMEOUT if stay else 0)

    def _done(self, parcel: Batch, outcome: BatchResult) -> None:
        """A process says how the tasks of a parcel ended; those of which it says nothing did not run."""
        try:
            for ended in outcome.ended:
                self._tell_end(parcel, ended)
            parcel.count_further(task.id for task in outcome.further)
            self._events.further(outcome.further)
            for item in outcome.cancelled:
                self._events.cancelled(item)
            for task_id in outcome.left:
                # The others go back below, or have gone already.
                if task_id not in parcel.seen:
                    self._unsaid.give_back(task_id)
            self._size.observe(outcome)
        finally:
            self._close(parcel)
        self._window.close(is_full=outcome.waiting >= self._size.limit())

    def _lost(self, parcel: Batch, error: ExceptionInfo) -> None:
        """A process died with a parcel, by its own doing, of a time limit, or because a task was cancelled."""
        self._parcels.learn(parcel)
        place = self._parcels.place(parcel)
        # It may be any of those that run together, or that came along when the process died before it began.
        suspects = parcel.items if place in (ALL, NOT_STARTED) else parcel.items[place : place + 1]
        running = {item.task_id for item in suspects}
        self._window.close()
        try:
            cancelled = parcel.open.get(parcel.ended_for or "")
            if cancelled is not None:
                self._events.revoked(cancelled, terminated=True)
            elif isinstance(_raised(error), TimeLimitExceeded) and len(running) == 1:
                self._end_out_of_time(parcel, *running)
        finally:
            self._close(parcel, died=set() if parcel.ended_for else running)

    def _end_out_of_time(self, parcel: Batch, task_id: str) -> None:
        request = parcel.open.get(task_id)
        if request is None or self._limits.time_limit is None:
            return
        log.error("task %s[%s] took longer than TASK_TIME_LIMIT", TASK_NAME, task_id)
        result = json.dumps(time_limit_result(self._limits.time_limit))
        self._unsaid.end(Completion(task_id=task_id, tag=task_id, status=FAILURE, result=result))
        self._tell_end(parcel, TaskResult(task_id, FAILURE, self._limits.time_limit, result))

    def _tell_end(self, parcel: Batch, ended: TaskResult) -> None:
        request = parcel.close(ended.task_id)
        if request is not None:
            self._events.ended(ended, request)

    def _cut(self, parcel: Batch) -> None:
        """What waits in a parcel behind the task that runs goes back to the queue."""
        if self._parcels.place(parcel) not in (ALL, NOT_STARTED):
            for item in parcel.items[self._scoreboard.truncate(parcel.slot) :]:
                self._give_back(parcel, item.task_id)
            self._say()

    def _close(self, parcel: Batch, *, died: Iterable[str] = ()) -> None:
        """The parcel is through; what is open goes back to the queue."""
        self._parcels.end(parcel)
        for task_id in list(parcel.open):
            self._give_back(parcel, task_id, died=task_id in died)
        self._say()

    def _give_back(self, parcel: Batch, task_id: str, *, died: bool = False) -> None:
        request = parcel.close(task_id)
        if request is not None:
            self._unsaid.give_back(task_id, request, died=died)

    def _say(self) -> None:
        for given_up, request in self._unsaid.say():
            self._events.given_up(given_up, request)


def _raised(error: ExceptionInfo) -> BaseException:
    # It is wrapped, to keep its traceback.
    raised: BaseException = getattr(error.exception, "exc", error.exception)
    return raised
