"""Reports of running tasks: their progress, and what `predict` has yielded so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from redis import Redis

from app.serving.store import scripts

#: Outputs of one task that are kept at most, in number and in bytes: the latest.
MAX_OUTPUTS = 10_000
MAX_OUTPUT_BYTES = 1024 * 1024


class Report(NamedTuple):
    """News of one task: its progress (JSON) or '', and outputs (JSON) behind so many earlier ones."""

    task_id: str
    progress: str
    before: int
    outputs: list[str]

    @property
    def length(self) -> int:
        """The number of characters."""
        return len(self.progress) + sum(map(len, self.outputs))


class ReportStore:
    """The reports in one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._report = scripts.register(redis, "tasks/report")

    def write(self, holder: str, reports: Iterable[Report]) -> None:
        """Store reports on tasks that this owner and epoch has claimed; those of others' tasks are void.

        Raises redis.RedisError when Redis is away, and OutOfMemoryError when it has no memory left.
        """
        arguments: list[str | int] = [holder, MAX_OUTPUTS, MAX_OUTPUT_BYTES]
        for task_id, progress, before, outputs in reports:
            arguments += [task_id, progress, before, len(outputs), *outputs]
        self._report(args=arguments)
