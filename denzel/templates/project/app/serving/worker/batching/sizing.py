"""How many tasks travel together: as many as are worth a job of the pool."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

from app.serving.worker.batching.runner import BatchResult

Task = TypeVar("Task")

#: Seconds of work that are worth a job of their own: less than that is not shared out among processes, and without
#: predict_batch a parcel is expected to take no longer.
WORTH_A_JOB = 0.005

#: Seconds from which a task of a batch is a slow one: what waits is then shared with the processes that are at work.
SLOW = 0.01

#: The most tasks of a parcel, without predict_batch.
MAX_IN_TURN = 64

# How much the latest parcel counts in what a task is expected to take, and the most seconds that it may say: so that
# one slow task among quick ones is soon forgotten.
_NEWS = 0.2
_LONGEST = 10 * WORTH_A_JOB


class AdaptiveBatchSize:
    """Learns from the parcels of one worker how large the next ones shall be."""

    def __init__(self, *, batch_size: int, deliveries: int) -> None:
        """`batch_size` is the most for predict_batch; after so many `deliveries` a task is given up."""
        self._batch_size = batch_size
        # One that takes its process along must be told from the others at once.
        self._always_alone = deliveries == 1
        self._predicts_batches = False
        self._task_takes: float | None = None
        self._parcel_takes: float | None = None

    def most(self) -> int:
        """How many tasks a process may get at once."""
        if self._always_alone:
            return 1
        if self._predicts_batches:
            return self._batch_size
        if self._task_takes is None:
            return 1
        return min(max(int(WORTH_A_JOB / max(self._task_takes, 1e-6)), 1), MAX_IN_TURN)

    @property
    def are_shared(self) -> bool:
        """Whether one process should leave some of what waits to the others, although it could take all."""
        return self._predicts_batches and self._task_takes is not None and self._task_takes > SLOW

    @property
    def are_quick(self) -> bool:
        """Whether a parcel is through so soon that handing it over costs more."""
        if self._parcel_takes is None or self._always_alone:
            return False
        return self._parcel_takes <= WORTH_A_JOB

    def share_out(self, tasks: list[Task], *, free: int) -> list[list[Task]]:
        """The tasks in even parts, for so many `free` processes at most: fewer where there is little to do."""
        if not tasks:
            return []
        jobs = 1 if len(tasks) * (self._task_takes or _LONGEST) <= WORTH_A_JOB else free
        parts = min(max(jobs, -(-len(tasks) // self.most())), len(tasks))
        size, larger = divmod(len(tasks), parts)
        ends = [place * size + min(place, larger) for place in range(parts + 1)]
        return [tasks[begin:end] for begin, end in pairwise(ends)]

    def learn(self, outcome: BatchResult) -> None:
        """What kind of pipeline this is, and how long it takes for a task."""
        self._predicts_batches = outcome.predicts_batches
        tasks = len(outcome.ended) + len(outcome.further)
        if tasks:
            self._task_takes = _learned(self._task_takes, outcome.seconds / tasks)
            self._parcel_takes = _learned(self._parcel_takes, outcome.seconds / outcome.rounds)


def _learned(before: float | None, took: float) -> float:
    took = min(took, _LONGEST)
    return took if before is None else before + _NEWS * (took - before)
