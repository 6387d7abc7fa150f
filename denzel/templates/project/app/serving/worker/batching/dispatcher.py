"""Dispatcher of a worker: takes tasks from the queue in batches and hands them to the processes of the pool.

Celery's own consumer costs a few milliseconds for each task. Here those that wait are taken in one step, run by one job
of the pool, and stored in one step. Each keeps its own claim, delivery count, cancel and failure. A message that is no
plain task of ours (a time to run at, another client's) goes through Celery itself.

While tasks are cheap, one process at a time polls the queue after its batch, and takes what comes (poller.py).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection
from signal import SIGKILL
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded

from app.serving.errors import time_limit_result
from app.serving.settings import Settings
from app.serving.store.claims import Claims
from app.serving.store.messages import TASK_NAME, QueuedTask, parse
from app.serving.store.tasks import FAILURE, Completion, TaskStore
from app.serving.worker.batching import celery_state
from app.serving.worker.batching.events import TaskEvents
from app.serving.worker.batching.in_flight import Batch, InFlight
from app.serving.worker.batching.poller import POLL_TIMEOUT, SESSION_LIMIT, PollGrant
from app.serving.worker.batching.runner import BatchResult, TaskResult
from app.serving.worker.batching.scoreboard import ALL, NOT_STARTED, Clock, Scoreboard
from app.serving.worker.batching.settlements import PendingSettlements
from app.serving.worker.batching.sizing import AdaptiveBatchSize
from app.serving.worker.batching.window import BatchWindow

log = logging.getLogger(__name__)

#: Seconds between two calls of `supervise`.
SUPERVISION_INTERVAL = 1.0

#: Seconds that a task may hold up those behind it in its batch, until they are requeued; and seconds that it must have
#: run before the dashboard shows it as started.
HEAD_OF_LINE_LIMIT = 1.0
SHOW_AS_STARTED_AFTER = 0.5


class Dispatcher:
    """The tasks of one worker, from the queue to their results. All of it runs in the worker's event loop."""

    def __init__(
        self,
        claims: Claims,
        store: TaskStore,
        scoreboard: Scoreboard,
        settings: Settings,
        run: Callable[..., BatchResult],
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        """A pool process calls `run` with a slot of the scoreboard, tasks, and perhaps a grant to poll."""
        self.claims = claims
        self._scoreboard = scoreboard
        self._settings = settings
        self._run = run
        self._clock = clock
        self._worker: Any = None
        self._ready: Callable[[], int] = lambda: 0
        self._has_dropped: Callable[[Any], bool] = lambda job: False
        self._in_flight = InFlight(claims, scoreboard)
        self._size = AdaptiveBatchSize(batch_size=settings.batch_size, deliveries=settings.task_max_deliveries)
        self._window = BatchWindow(scoreboard, settings.batch_wait, clock)
        self.events = TaskEvents(clock)
        self._settlements = PendingSettlements(claims, store, self.events, ttl=settings.result_lifetime)
        self._sessions = 0

    def start(self, worker: Any, *, ready: Callable[[], int], has_dropped: Callable[[Any], bool]) -> None:
        """Take tasks for a worker: `ready` counts its processes with a model, `has_dropped` is asked of its jobs."""
        self._worker = worker
        self._ready = ready
        self._has_dropped = has_dropped
        self.events.start(worker)
        self._window.start(worker.timer)

    def stop(self) -> None:
        """Take no more tasks."""
        self._ready = lambda: 0
        for batch in self._in_flight:
            self._scoreboard.revoke_grant(batch.slot)

    def capacity(self) -> int:
        """The number of processes for which tasks may be taken now."""
        free = self._free()
        return 0 if free > 0 and self._window.is_open(self._in_flight) else free

    def take(self) -> list[str]:
        """Take tasks that wait, and hand them out. Returns the messages that are for Celery itself."""
        self._settlements.flush()
        free = self._free()
        # A requeue whose answer was lost must not be repeated for a task that has been taken again.
        if free <= 0 or self._window.open(self._in_flight) or self._settlements.to_requeue:
            return []
        self._window.close()
        isolated, together, for_celery = [], [], []
        sharing = self._ready() if self._size.should_split else 0
        taken = self.claims.take(free=free, limit=self._size.limit(), sharers=sharing)
        for claimed in taken.claimed:
            task = parse(claimed.message, claimed.since)
            if task is None or task.task_id in celery_state.revoked:
                for_celery.append(claimed.message)
            elif claimed.deliveries > 1:
                isolated.append([task])
            else:
                together.append(task)
        for task in taken.cancelled:
            self.events.cancelled(task)
        for tasks in isolated:
            self._dispatch(tasks)
        for tasks in self._size.split(together, free=free - len(isolated) - len(for_celery)):
            self._dispatch(tasks, self._grant())
        return for_celery

    def claimed(self) -> dict[str, str]:
        """The ids of all tasks that this worker has, by the delivery tags of their messages, which are the same."""
        claimed = {task.task_id: task.task_id for batch in self._in_flight for task in batch.tasks}
        # Of a copy, as another thread calls this.
        return claimed | dict.fromkeys(list(self._settlements.to_requeue), "")

    @property
    def session_id(self) -> int:
        """The id of the current poll session; 0 while no process may poll the queue."""
        poller = self._in_flight.poller
        return poller.grant.session_id if poller is not None and poller.grant is not None else 0

    def cancel(self, task_id: str) -> None:
        """Kill the process of a cancelled task when the task runs; else let the process leave it out."""
        batch = self._in_flight.find(task_id)
        if batch is None or batch.pid is None:
            return
        running, own = self._in_flight.index(batch), batch.index_of(task_id)
        if running in (ALL, own):
            log.info("task %s was cancelled; killing the process that runs it", task_id)
            batch.killed_for = task_id
            self._worker.pool.terminate_job(batch.pid, SIGKILL)
        elif NOT_STARTED < running < own:
            self.events.revoked(batch.pending[task_id], terminated=False)
            self._truncate(batch)

    def supervise(self) -> None:
        """Requeue what waits behind a long task, or could not be requeued; call it every SUPERVISION_INTERVAL."""
        for batch in self._in_flight:
            if self._has_dropped(batch.job):
                self._close(batch)
                continue
            since, is_idle = self._scoreboard.since(batch.slot)
            seconds = self._clock() - since
            if is_idle or seconds < SHOW_AS_STARTED_AFTER:
                continue
            self._in_flight.sync_from_redis(batch)
            if batch.reported_round != batch.round:
                batch.reported_round = batch.round
                for task in batch.tasks:
                    if task.task_id in batch.pending and not task.has_ended:
                        self.events.started(batch.pending[task.task_id])
            if seconds > HEAD_OF_LINE_LIMIT and batch.pid is not None:
                self._truncate(batch)
        self._settlements.flush()

    def _free(self) -> int:
        return self._ready() - len(self._in_flight) - len(celery_state.reserved_requests)

    def _grant(self) -> PollGrant | None:
        """A grant to poll the queue, when no process has one: a second would only share out cheap tasks.

        Pool processes do not see what `celery control revoke` has named, which Celery keeps for three hours.
        """
        is_allowed = self._size.is_cheap and not celery_state.revoked and self._ready()
        if self._in_flight.poller is not None or not is_allowed:
            return None
        self._sessions += 1
        return PollGrant(self._sessions, self._size.limit())

    def _dispatch(self, tasks: list[QueuedTask], grant: PollGrant | None = None) -> None:
        batch = self._in_flight.add(tasks, grant, self.cancel)
        try:
            batch.job = self._worker.pool.apply_async(
                self._run,
                (batch.slot, tasks, grant),
                accept_callback=lambda pid, _: setattr(batch, "pid", pid),
                callback=lambda result: self._returned(batch, result),
                error_callback=lambda error: self._lost(batch, error),
                timeout=self._timeout(tasks, grant),
                correlation_id=tasks[0].task_id,
            )
        finally:
            if batch.job is None:
                # The pool is being stopped.
                self._close(batch)

    def _timeout(self, tasks: list[QueuedTask], grant: PollGrant | None) -> float | None:
        """Seconds until the pool kills the process: enough for the last task that it may start to have its time."""
        if self._settings.task_time_limit is None:
            return None
        in_front = HEAD_OF_LINE_LIMIT + SUPERVISION_INTERVAL if len(tasks) > 1 or grant else 0
        return self._settings.task_time_limit + in_front + (SESSION_LIMIT + POLL_TIMEOUT if grant else 0)

    def _returned(self, batch: Batch, result: BatchResult) -> None:
        """Close a batch whose process has returned; tasks that are not in the result did not run."""
        try:
            for ended in result.results:
                self._report(batch, ended)
            batch.count_polled(task.id for task in result.polled)
            self.events.polled(result.polled)
            for task in result.cancelled:
                self.events.cancelled(task)
            for task_id in result.to_requeue:
                # The others are requeued below, or have been already.
                if task_id not in batch.task_ids:
                    self._settlements.requeue(task_id)
            self._size.observe(result)
        finally:
            self._close(batch)
        self._window.close(is_full=result.waiting >= self._size.limit())

    def _lost(self, batch: Batch, error: ExceptionInfo) -> None:
        """Close a batch whose process died: by itself, of the time limit, or because a task was cancelled."""
        self._in_flight.sync_from_redis(batch)
        index = self._in_flight.index(batch)
        # Tasks that run together are all suspects, and so are those of a process that died before it started one.
        suspects = batch.tasks if index in (ALL, NOT_STARTED) else batch.tasks[index : index + 1]
        running = {task.task_id for task in suspects}
        self._window.close()
        try:
            # billiard wraps an exception to keep its traceback.
            raised = getattr(error.exception, "exc", error.exception)
            cancelled = batch.pending.get(batch.killed_for or "")
            if cancelled is not None:
                self.events.revoked(cancelled, terminated=True)
            elif isinstance(raised, TimeLimitExceeded) and len(running) == 1:
                self._fail_overdue(batch, *running)
        finally:
            self._close(batch, died=set() if batch.killed_for else running)

    def _fail_overdue(self, batch: Batch, task_id: str) -> None:
        if task_id not in batch.pending or self._settings.task_time_limit is None:
            return
        log.error("task %s[%s] took longer than TASK_TIME_LIMIT", TASK_NAME, task_id)
        result = json.dumps(time_limit_result(self._settings.task_time_limit))
        self._settlements.complete(Completion(task_id=task_id, tag=task_id, status=FAILURE, result=result))
        self._report(batch, TaskResult(task_id, FAILURE, self._settings.task_time_limit, result))

    def _report(self, batch: Batch, result: TaskResult) -> None:
        view = batch.close(result.task_id)
        if view is not None:
            self.events.ended(result, view)

    def _truncate(self, batch: Batch) -> None:
        """Requeue the tasks of a batch behind the one that runs."""
        if self._in_flight.index(batch) not in (ALL, NOT_STARTED):
            waiting = batch.tasks[self._scoreboard.truncate(batch.slot) :]
            self._settlements.requeue_from(batch, [task.task_id for task in waiting])

    def _close(self, batch: Batch, *, died: Collection[str] = ()) -> None:
        """Remove a batch, and requeue what is pending; its process may have `died` of some tasks."""
        self._in_flight.remove(batch)
        self._settlements.requeue_from(batch, batch.pending, died=died)
