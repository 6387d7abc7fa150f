"""The parcels of a worker: taking tasks from the queue, several at a time, and handing them to processes of the pool.

Celery's own way costs a few milliseconds for each task. Here those that wait travel together: one step takes them from
the queue, one job of the pool runs them, one step stores how they ended. Each keeps its own claim, count, cancel and
failure. What is no plain task of ours (a time to run at, another client's) goes Celery's own way.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from signal import SIGKILL
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded
from celery.worker import state
from redis import RedisError

from app.answers import out_of_time
from app.board import ALL, NOT_BEGUN, SLOTS, Board
from app.claims import Claims
from app.messages import TASK_NAME
from app.parcel import Ended, Item, Outcome
from app.parcel_sizes import ParcelSizes
from app.records import FAILURE, TaskEnd, TaskRecords
from app.task_events import TaskEvents

log = logging.getLogger(__name__)

#: Seconds between two calls of `look`.
LOOK_EVERY = 1.0

#: Seconds that a task may keep those behind it in its parcel, until they go back to the queue; and seconds for which it
#: runs until the dashboard is told that it does.
LONGEST_IN_FRONT = 1.0
LONG = 0.5


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
        # In turn, so that one is not taken again soon: a process that the pool has given up may still write there.
        self._slots = deque(range(SLOTS))
        self._sizes = ParcelSizes(batch_size=limits.batch_size, deliveries=limits.deliveries)
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
        self._say()
        # What was said, and not heard, must not be said again of a task that is taken again.
        if self._gathers() or self._to_give_back:
            return []
        self._gathering_until = None
        free = self._free()
        if free <= 0:
            return []
        alone, together, others = [], [], []
        for claimed in self.claims.take(free=free, most=self._sizes.most()):
            request = _plain(claimed.message)
            if request is None:
                others.append(claimed.message)
            elif claimed.deliveries > 1:
                alone.append([request])
            else:
                together.append(request)
        for parcel in alone + self._sizes.share_out(together, free=free - len(alone) - len(others)):
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
        elif NOT_BEGUN < place < own:
            self._cut(parcel)

    def look(self) -> None:
        """Give back what waits behind a long task; say again what could not be said. To be called every second."""
        now = self._clock()
        pool = self._worker.pool and self._worker.pool._pool
        for parcel in list(self._parcels):
            if pool and parcel.job._job not in pool._cache:
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

    def _send(self, plain: list[_Plain]) -> None:
        parcel = Parcel(self._slots.popleft(), [one.item for one in plain], self._clock())
        self._board.begin(parcel.slot, len(plain))
        self._parcels.add(parcel)
        for one in plain:
            request = Request(one.item, one.shown_arguments, parcel, self.end_task)
            parcel.open[request.id] = request
            state.task_accepted(request)
        limit = self._limits.time_limit
        try:
            parcel.job = self._worker.pool.apply_async(
                self._run,
                (parcel.slot, parcel.items),
                accept_callback=lambda pid, _: setattr(parcel, "pid", pid),
                callback=lambda outcome: self._done(parcel, outcome),
                error_callback=lambda error: self._lost(parcel, error),
                # Those in front of a task may have taken a while.
                timeout=limit and limit + (LONGEST_IN_FRONT + LOOK_EVERY if len(plain) > 1 else 0),
                correlation_id=plain[0].item.task_id,
            )
        finally:
            if parcel.job is None:
                # The pool is being stopped.
                self._close(parcel)

    def _done(self, parcel: Parcel, outcome: Outcome) -> None:
        """A process says how the tasks of a parcel ended; those of which it says nothing did not run."""
        try:
            for ended in outcome.ended:
                self._tell_end(parcel, ended)
            self._sizes.learn(outcome)
        finally:
            self._close(parcel)
        # Enough wait already, or what waits may gather while another process is at work.
        self._gathering_until = self._clock() if outcome.waiting >= self._sizes.most() else None

    def _lost(self, parcel: Parcel, error: ExceptionInfo) -> None:
        """A process died with a parcel, by its own doing, of a time limit, or because a task was cancelled."""
        place = self._board.place(parcel.slot)
        # It may be any of those that run together, or that came along when the process died before it began.
        suspects = parcel.items if place in (ALL, NOT_BEGUN) else parcel.items[place : place + 1]
        running = {item.task_id for item in suspects}
        self._gathering_until = None
        try:
            if parcel.ended_for is not None:
                self._events.revoked(parcel.ended_for)
            elif isinstance(_raised(error), TimeLimitExceeded) and len(running) == 1:
                self._end_out_of_time(parcel, *running)
        finally:
            self._close(parcel, died=set() if parcel.ended_for else running)

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
        if self._board.place(parcel.slot) not in (ALL, NOT_BEGUN):
            for item in parcel.items[self._board.cut(parcel.slot) :]:
                self._give_back(parcel, item.task_id)
            self._say()

    def _close(self, parcel: Parcel, *, died: Iterable[str] = ()) -> None:
        """The parcel is through; what is open goes back to the queue."""
        if parcel in self._parcels:
            self._parcels.remove(parcel)
            self._slots.append(parcel.slot)
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
