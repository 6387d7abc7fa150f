"""The parcels of a worker: taking tasks from the queue, several at a time, and handing them to processes of the pool.

Celery's own way costs a few milliseconds for each task. Here those that wait travel together: one step takes them from
the queue, one job of the pool runs them, one step stores how they ended. Each keeps its own claim, count, cancel and
failure. What is no plain task of ours (a time to run at, another client's) goes Celery's own way.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count, pairwise
from signal import SIGKILL
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded
from celery.worker import state
from redis import RedisError

from app.answers import out_of_time
from app.board import ALL, SLOTS, Board
from app.claims import Claims
from app.messages import TASK_NAME
from app.parcel import Ended, Item, Outcome
from app.records import FAILURE, TaskEnd, TaskRecords
from app.task_events import TaskEvents

log = logging.getLogger(__name__)

#: Seconds of work that are worth a job of their own: less than that is not shared out among processes, and without
#: predict_batch a parcel is expected to take no longer.
WORTH_A_JOB = 0.005

#: The most tasks of a parcel, without predict_batch.
MOST_IN_TURN = 64

#: Seconds that a task may keep those behind it in its parcel, until they go back to the queue; and seconds for which it
#: runs until the dashboard is told that it does.
LONGEST_IN_FRONT = 1.0
LONG = 0.5

#: How much the latest parcel counts in what a task is expected to take.
_NEWS = 0.2


@dataclass(frozen=True, kw_only=True)
class ParcelLimits:
    """The most tasks for predict_batch and the seconds that they may gather; the seconds that one task may take; after
    how many deliveries it is given up, and for how many seconds a result is kept.
    """

    batch_size: int
    batch_wait: float
    time_limit: float | None
    deliveries: int
    lifetime: int


class Request:
    """One task of a parcel, as Celery's state and its `inspect` and `control` commands know the tasks of a worker."""

    name = TASK_NAME

    def __init__(self, item: Item, shown_arguments: str, parcel: Parcel, end: Callable[[str], None]) -> None:
        self.id = item.task_id
        self.item = item
        self.shown_arguments = shown_arguments
        self.time_start = time.time()
        self._parcel = parcel
        self._end = end

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What `celery inspect active` shows."""
        return {
            "id": self.id,
            "name": self.name,
            "args": self.shown_arguments,
            "kwargs": "{}",
            "type": self.name,
            "time_start": self.time_start,
            "acknowledged": False,
            "worker_pid": self._parcel.pid,
        }

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """End the process that runs the task."""
        self._end(self.id)


class Parcel:
    """Some tasks on their way to a pool process, or in it. `open` are those of which no end is known yet."""

    def __init__(self, slot: int, items: list[Item], began: float) -> None:
        self.slot = slot
        self.items = items
        self.began = began
        self.pid: int | None = None
        self.job: Any = None
        self.open: dict[str, Request] = {}
        #: The task for which the process was ended.
        self.ended_for: str | None = None
        self.told = False

    def place_of(self, task_id: str) -> int:
        return next(place for place, item in enumerate(self.items) if item.task_id == task_id)


class Parcels:
    """What one worker has taken, and takes. All of it runs in the worker's event loop."""

    def __init__(
        self,
        claims: Claims,
        records: TaskRecords,
        board: Board,
        limits: ParcelLimits,
        run: Callable[..., Outcome],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`run` is what a pool process calls with a slot of the board and some items."""
        self.claims = claims
        self._records = records
        self._board = board
        self._limits = limits
        self._run = run
        self._clock = clock
        self._worker: Any = None
        self._ready: Callable[[], int] = lambda: 0
        self._parcels: set[Parcel] = set()
        self._slots = count()
        self._predicts_batches = False
        self._task_takes: float | None = None
        self._gathering_until: float | None = None
        #: What could not be said while Redis was away: messages to give back (did their process die?), and ends.
        self._to_give_back: dict[str, bool] = {}
        self._to_end: list[TaskEnd] = []

    def start(self, worker: Any, ready: Callable[[], int]) -> None:
        """Take tasks for a worker of which so many processes are `ready`."""
        self._worker = worker
        self._ready = ready
        self._events = TaskEvents(worker)

    def stop(self) -> None:
        """Take no more."""
        self._ready = lambda: 0

    def room(self) -> int:
        """For how many processes tasks may be taken now."""
        gathering = self._gathering_until is not None and self._parcels and self._clock() < self._gathering_until
        return 0 if gathering else self._free()

    def take(self) -> list[str]:
        """Take what waits. Returns the messages that are to go Celery's own way.

        While a process is at work, and so could soon take more at once, what is there gathers for a moment.
        """
        if self._gathers():
            return []
        self._gathering_until = None
        free = self._free()
        if free <= 0:
            return []
        most = self._most()
        alone, together, others = [], [], []
        for claimed in self.claims.take(free=free, most=most):
            request = _plain(claimed.message)
            if request is None:
                others.append(claimed.message)
            elif claimed.deliveries > 1:
                alone.append([request])
            else:
                together.append(request)
        for parcel in alone + _shared_out(together, self._jobs(len(together), free - len(alone) - len(others)), most):
            self._send(parcel)
        return others

    def known(self) -> dict[str, str]:
        """The ids of all tasks that this worker has, by the delivery tags of their messages."""
        known = {item.tag: item.task_id for parcel in list(self._parcels) for item in list(parcel.items)}
        known.update(dict.fromkeys(list(self._to_give_back), ""))
        return known

    def end_task(self, task_id: str) -> None:
        """A task was cancelled: end its process if it runs there, else let the process leave it out."""
        parcel = next((parcel for parcel in self._parcels if task_id in parcel.open), None)
        if parcel is None or parcel.pid is None:
            return
        place, own = self._board.place(parcel.slot), parcel.place_of(task_id)
        if place in (ALL, own):
            log.info("task %s was cancelled; ending the process that runs it", task_id)
            parcel.ended_for = task_id
            self._worker.pool.terminate_job(parcel.pid, SIGKILL)
        elif place < own:
            self._cut(parcel)

    def look(self) -> None:
        """Call it every second: what waits behind a long task goes back, and what could not be said is tried again."""
        now = self._clock()
        pool = self._worker.pool and self._worker.pool._pool
        for parcel in list(self._parcels):
            if pool and parcel.job._job not in pool._cache and not parcel.job.ready():
                # The pool has dropped it unbegun, as it does when a connection breaks.
                self._close(parcel)
                continue
            if now - parcel.began > LONG and not parcel.told:
                parcel.told = True
                for request in parcel.open.values():
                    self._events.running(request.id, request.shown_arguments, request.time_start)
            if now - parcel.began > LONGEST_IN_FRONT and parcel.pid is not None:
                self._cut(parcel)
        self._say()

    def tell(self) -> None:
        """Call it every task_events.TELL_EVERY seconds: the dashboard is told."""
        self._events.flush()

    def _free(self) -> int:
        return self._ready() - len(self._parcels) - len(state.reserved_requests)

    def _gathers(self) -> bool:
        if not self._parcels or not self._limits.batch_wait:
            return False
        if self._gathering_until is None:
            self._gathering_until = self._clock() + self._limits.batch_wait
            # The event loop then looks at its queue again.
            self._worker.timer.call_after(self._limits.batch_wait, lambda: None)
        return self._clock() < self._gathering_until

    def _most(self) -> int:
        """How many tasks a process may get at once."""
        if self._limits.deliveries == 1:
            # One that takes its process along must be told from the others at once.
            return 1
        if self._predicts_batches:
            return self._limits.batch_size
        if self._task_takes is None:
            return 1
        return min(max(int(WORTH_A_JOB / max(self._task_takes, 1e-6)), 1), MOST_IN_TURN)

    def _jobs(self, tasks: int, free: int) -> int:
        """Among how many of the free processes so many tasks are shared out, at least."""
        return 1 if tasks * (self._task_takes or 1.0) <= WORTH_A_JOB else free

    def _send(self, plain: list[_Plain]) -> None:
        parcel = Parcel(next(self._slots) % SLOTS, [one.item for one in plain], self._clock())
        self._board.begin(parcel.slot, len(plain))
        self._parcels.add(parcel)
        for one in plain:
            request = Request(one.item, one.shown_arguments, parcel, self.end_task)
            parcel.open[request.id] = request
            state.task_accepted(request)
        limit = self._limits.time_limit
        parcel.job = self._worker.pool.apply_async(
            self._run,
            (parcel.slot, parcel.items),
            accept_callback=lambda pid, _: setattr(parcel, "pid", pid),
            callback=lambda outcome: self._done(parcel, outcome),
            error_callback=lambda error: self._lost(parcel, error),
            # Those in front of a task may have taken a while.
            timeout=limit and limit + (LONGEST_IN_FRONT if len(plain) > 1 else 0),
            correlation_id=plain[0].item.task_id,
        )
        if parcel.job is None:
            # The pool is being stopped.
            self._close(parcel)

    def _done(self, parcel: Parcel, outcome: Outcome) -> None:
        """A process says how the tasks of a parcel ended; those of which it says nothing did not run."""
        try:
            for ended in outcome.ended:
                self._tell_end(parcel, ended)
            self._learn(outcome)
        finally:
            self._close(parcel)
        # Enough wait already, or what waits may gather while another process is at work.
        self._gathering_until = self._clock() if outcome.waiting >= self._most() else None

    def _learn(self, outcome: Outcome) -> None:
        """What kind of pipeline this is, and how long it takes for a task."""
        self._predicts_batches = outcome.predicts_batches
        if outcome.ended:
            took = sum(ended.runtime for ended in outcome.ended) / len(outcome.ended)
            took /= len(outcome.ended) if outcome.predicts_batches else 1
            before = took if self._task_takes is None else self._task_takes
            self._task_takes = before + _NEWS * (took - before)

    def _lost(self, parcel: Parcel, error: ExceptionInfo) -> None:
        """A process died with a parcel, by its own doing, of a time limit, or because a task was cancelled."""
        place = self._board.place(parcel.slot)
        running = {item.task_id for item in (parcel.items if place == ALL else parcel.items[place : place + 1])}
        if isinstance(_raised(error), TimeLimitExceeded) and len(running) == 1:
            self._end_out_of_time(parcel, running.pop())
        self._close(parcel, died=set() if parcel.ended_for else running)
        self._gathering_until = None

    def _end_out_of_time(self, parcel: Parcel, task_id: str) -> None:
        request = parcel.open.get(task_id)
        if request is None or self._limits.time_limit is None:
            return
        log.error("task %s[%s] took longer than TASK_TIME_LIMIT", TASK_NAME, task_id)
        result = json.dumps(out_of_time(self._limits.time_limit))
        self._to_end.append(TaskEnd(task_id=task_id, tag=request.item.tag, status=FAILURE, result=result))
        self._tell_end(parcel, Ended(task_id, FAILURE, self._limits.time_limit, result))

    def _tell_end(self, parcel: Parcel, ended: Ended) -> None:
        request = parcel.open.pop(ended.task_id, None)
        if request is not None:
            state.task_ready(request)
            self._events.ended(ended, request.shown_arguments, request.time_start)

    def _cut(self, parcel: Parcel) -> None:
        """What waits in a parcel behind the task that runs goes back to the queue."""
        if self._board.place(parcel.slot) != ALL:
            for item in parcel.items[self._board.cut(parcel.slot) :]:
                self._give_back(parcel, item.task_id)
            self._say()

    def _close(self, parcel: Parcel, *, died: Iterable[str] = ()) -> None:
        """The parcel is through; what is open goes back to the queue."""
        self._parcels.discard(parcel)
        for task_id in list(parcel.open):
            self._give_back(parcel, task_id, died=task_id in died)
        self._say()

    def _give_back(self, parcel: Parcel, task_id: str, *, died: bool = False) -> None:
        request = parcel.open.pop(task_id, None)
        if request is not None:
            state.task_ready(request)
            self._to_give_back[request.item.tag] = died

    def _say(self) -> None:
        """Give back, and end, what is to be; where Redis is away, the next look tries again."""
        try:
            if self._to_end:
                self._records.end_all(self._to_end, lifetime=self._limits.lifetime)
                self._to_end = []
            if self._to_give_back:
                self.claims.give_back(self._to_give_back)
                self._to_give_back = {}
        except RedisError as error:
            log.warning("what became of some tasks could not be stored, trying again: %s", error)


@dataclass(frozen=True)
class _Plain:
    """A message that can travel in a parcel: the task, and its arguments as the dashboard shows them."""

    item: Item
    shown_arguments: str


def _plain(message: str) -> _Plain | None:
    """None for what needs Celery itself: a time to run at, a revoked id, another client's message."""
    try:
        stored = json.loads(message)
        headers, tag = stored["headers"], stored["properties"]["delivery_tag"]
        task_id = headers["id"]
        needs_celery = headers["task"] != TASK_NAME or tag != task_id or headers["eta"] or headers["expires"]
        item = Item(task_id, tag, stored["body"])
    except (ValueError, KeyError, TypeError):
        return None
    return None if needs_celery or task_id in state.revoked else _Plain(item, headers["argsrepr"])


def _raised(error: ExceptionInfo) -> BaseException:
    # It is wrapped, to keep its traceback.
    raised: BaseException = getattr(error.exception, "exc", error.exception)
    return raised


def _shared_out(tasks: list[_Plain], jobs: int, most: int) -> list[list[_Plain]]:
    """The tasks in even parts: `jobs` of them, and more where one would hold more than `most`."""
    if not tasks:
        return []
    parts = min(max(jobs, -(-len(tasks) // most)), len(tasks))
    size, larger = divmod(len(tasks), parts)
    ends = [place * size + min(place, larger) for place in range(parts + 1)]
    return [tasks[begin:end] for begin, end in pairwise(ends)]
