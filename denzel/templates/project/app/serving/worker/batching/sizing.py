"""Adaptive batch size: as many tasks in one batch as are worth a job of the pool."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

from app.serving.worker.batching.runner import BatchResult

Task = TypeVar("Task")

#: Seconds of work that are worth a job of the pool: less is not split among processes, and without predict_batch a
#: batch is expected to take no longer.
MIN_JOB_TIME = 0.005

#: Seconds per task above which predict_batch is slow: what waits is then split with the processes that are at work.
SPLIT_ABOVE = 0.01

#: The most tasks of a batch without predict_batch.
MAX_IN_TURN = 64

# Weight of the newest sample in the moving average of task time, and the cap on one sample, so that one slow task is
# soon forgotten.
_WEIGHT = 0.2
_MAX_SAMPLE = 10 * MIN_JOB_TIME


class AdaptiveBatchSize:
    """The size of the next batches, from how long the latest ones of this worker took."""

    def __init__(self, *, batch_size: int, deliveries: int) -> None:
        """`batch_size` is the most for predict_batch; after so many `deliveries` a task is dead-lettered."""
        self._batch_size = batch_size
        # With one delivery, a task that kills its process must be known at once.
        self._always_isolated = deliveries == 1
        self._predicts_batches = False
        self._task_time: float | None = None
        self._round_time: float | None = None

    def limit(self) -> int:
        """The most tasks that a process may get at once."""
        if self._always_isolated:
            return 1
        if self._predicts_batches:
            return self._batch_size
        if self._task_time is None:
            return 1
        return min(max(int(MIN_JOB_TIME / max(self._task_time, 1e-6)), 1), MAX_IN_TURN)

    @property
    def should_split(self) -> bool:
        """True when one process should leave some of what waits to the others, although it could take all."""
        return self._predicts_batches and self._task_time is not None and self._task_time > SPLIT_ABOVE

    @property
    def is_cheap(self) -> bool:
        """True when a batch takes less time than it costs to hand it over."""
        if self._round_time is None or self._always_isolated:
            return False
        return self._round_time <= MIN_JOB_TIME

    def split(self, tasks: list[Task], *, free: int) -> list[list[Task]]:
        """The tasks in even parts, for so many `free` processes at most; in fewer parts when there is little to do."""
        if not tasks:
            return []
        jobs = 1 if len(tasks) * (self._task_time or _MAX_SAMPLE) <= MIN_JOB_TIME else free
        parts = min(max(jobs, -(-len(tasks) // self.limit())), len(tasks))
        size, larger = divmod(len(tasks), parts)
        ends = [part * size + min(part, larger) for part in range(parts + 1)]
        return [tasks[begin:end] for begin, end in pairwise(ends)]

    def observe(self, result: BatchResult) -> None:
        """Take the time of a batch as a sample, and note whether the pipeline predicts batches."""
        self._predicts_batches = result.predicts_batches
        tasks = len(result.results) + len(result.polled)
        if tasks:
            self._task_time = _average(self._task_time, result.seconds / tasks)
            self._round_time = _average(self._round_time, result.seconds / result.rounds)


def _average(before: float | None, sample: float) -> float:
    sample = min(sample, _MAX_SAMPLE)
    return sample if before is None else before + _WEIGHT * (sample - before)
