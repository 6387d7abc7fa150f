"""Adaptive batch size: as many tasks in one batch as keep the next ones from waiting long."""

from __future__ import annotations

#: Seconds that a batch may take without predict_batch, as far as that can be foreseen.
MAX_TIME_IN_TURN = 0.005

#: Seconds up to which a batch is cheap: its process keeps the place at the head of the queue meanwhile.
CHEAP = 0.002

#: Seconds per task above which predict_batch is slow: what waits is then split with the other processes.
SPLIT_ABOVE = 0.01

#: The most tasks of a batch without predict_batch.
MAX_IN_TURN = 64

# Weight of the newest sample in the moving averages, and the cap on one sample, so that one slow task is soon
# forgotten.
_WEIGHT = 0.2
_MAX_SAMPLE = 0.05


class AdaptiveBatchSize:
    """The size of the next batches of a process, from how long its latest ones took."""

    def __init__(self, *, batch_size: int, deliveries: int, predicts_batches: bool) -> None:
        """`batch_size` is the most for predict_batch; after so many `deliveries` a task is dead-lettered."""
        self._batch_size = batch_size
        # With one delivery, a task that kills its process must be known at once.
        self._always_isolated = deliveries == 1
        self._predicts_batches = predicts_batches
        self._task_time: float | None = None
        self._batch_time: float | None = None

    def limit(self) -> int:
        """The most tasks of the next batch."""
        if self._always_isolated:
            return 1
        if self._predicts_batches:
            return self._batch_size
        if self._task_time is None:
            return 1
        return min(max(int(MAX_TIME_IN_TURN / max(self._task_time, 1e-6)), 1), MAX_IN_TURN)

    @property
    def should_split(self) -> bool:
        """True when one process should leave some of what waits to the others, although it could take all."""
        return self._predicts_batches and self._task_time is not None and self._task_time > SPLIT_ABOVE

    @property
    def is_cheap(self) -> bool:
        """True when the next batch is expected to take less time than it costs to wake another process."""
        return self._batch_time is not None and self._batch_time <= CHEAP

    def observe(self, tasks: int, seconds: float) -> None:
        """Take the time of a batch of so many tasks as a sample."""
        if tasks:
            self._task_time = _average(self._task_time, seconds / tasks)
            self._batch_time = _average(self._batch_time, seconds)


def _average(before: float | None, sample: float) -> float:
    sample = min(sample, _MAX_SAMPLE)
    return sample if before is None else before + _WEIGHT * (sample - before)
