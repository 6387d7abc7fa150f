"""State of a followed task: what has become of it since a reader's last look, over one connection."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from app.serving.store import keys
from app.serving.store.loop.connection import LoopConnection, resolve
from app.serving.store.loop.tasks import LoopScript
from app.serving.store.tasks import PENDING, TaskRecord, read_record

#: Outputs in one answer at most, in number and in bytes.
MAX_OUTPUTS_READ = 500
MAX_BYTES_READ = 256 * 1024


class TaskState(NamedTuple):
    """A task at one moment.

    `restarts` counts how often it went back to the queue, `reports` those of its progress (JSON), `total` its outputs;
    `outputs` are some of these (JSON), from the number `first` on. `record` is there when it has ended and these are
    the last.
    """

    status: str
    restarts: int
    reports: int
    progress: str | None
    started: float | None
    deliveries: int
    total: int
    position: int | None
    first: int
    outputs: list[str]
    record: TaskRecord | None

    @property
    def has_more(self) -> bool:
        """True when there are outputs behind these."""
        return self.first + len(self.outputs) < self.total


class FollowedTasks:
    """Looks at tasks whose changes are then announced, each on `keys.changes(task_id)`."""

    def __init__(self, connection: LoopConnection) -> None:
        self._connection = connection
        self._follow = LoopScript(connection, "tasks/follow")

    async def read(self, task_id: str, *, restarts: int, outputs: int) -> TaskState | None:
        """The state for a reader that has so many outputs since so many restarts; None for an unknown task.

        Raises redis.RedisError when Redis is away.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        arguments = [task_id, restarts, outputs, MAX_OUTPUTS_READ, MAX_BYTES_READ]
        self._follow.send(arguments, lambda reply, _: resolve(future, reply))
        reply = await future
        return None if reply is None else _state(reply)

    async def positions(self, task_ids: list[str]) -> list[int | None]:
        """The place of each of these tasks among those that wait, 1 for the next; None for one that does not."""
        calls = [self._connection.call("ZRANK", keys.WAITING, task_id) for task_id in task_ids]
        return [None if rank is None else rank + 1 for rank in await asyncio.gather(*calls)]


def _state(reply: list[Any]) -> TaskState:
    status, restarts, reports, progress, started, deliveries, total, rank, first, outputs, fields = reply
    return TaskState(
        status=status,
        restarts=int(restarts),
        reports=int(reports or 0),
        progress=progress,
        started=float(started) if started else None,
        deliveries=int(deliveries or 0),
        total=total,
        position=rank + 1 if rank is not None and status == PENDING else None,
        first=first,
        outputs=outputs,
        record=read_record(dict(zip(fields[::2], fields[1::2], strict=True)), None, parse=False) if fields else None,
    )
