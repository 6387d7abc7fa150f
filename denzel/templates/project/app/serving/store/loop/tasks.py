"""Records of tasks for the api: what tasks.py and workers.py read and write, from an event loop."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from redis.exceptions import NoScriptError

from app.serving.store import keys, scripts
from app.serving.store.loop.connection import Handler, LoopConnection, resolve
from app.serving.store.loop.resp import Word
from app.serving.store.tasks import TaskRecord, cancel_arguments, read_record
from app.serving.store.times import QueueSpeed, read_clock, read_speed
from app.serving.store.workers import WorkerReport, read_reports


class LoopScript:
    """A script of `lua/`, over one connection."""

    def __init__(self, connection: LoopConnection, name: str) -> None:
        self._connection = connection
        self._source = scripts.compose(name)
        self._sha = hashlib.sha1(self._source.encode()).hexdigest()

    def send(self, arguments: list[Any], handler: Handler) -> None:
        """Run the script; a restarted Redis, which has lost it, gets it again."""

        def handle(reply: Any, is_repeated: bool) -> None:
            if isinstance(reply, NoScriptError):
                self._connection.send(("EVAL", self._source, 0, *arguments), handler)
            else:
                handler(reply, is_repeated)

        self._connection.send(("EVALSHA", self._sha, 0, *arguments), handle)


class LoopTaskStore:
    """Looking up and cancelling tasks over one connection. Every method raises redis.RedisError when Redis is away."""

    def __init__(self, connection: LoopConnection) -> None:
        self._connection = connection
        self._cancel = LoopScript(connection, "tasks/cancel")

    async def find(self, task_id: str) -> TaskRecord | None:
        """The record of a task, its result as `text`; None when the id was never accepted or its result has expired."""
        fields, rank, clock = await self._calls(
            ("HGETALL", keys.task(task_id)), ("ZRANK", keys.WAITING, task_id), ("TIME",)
        )
        return read_record(fields, rank, read_clock(clock), parse=False)

    async def cancel(self, task_id: str, *, ttl: int) -> str | None:
        """End the task as REVOKED, unless it has ended. Returns its status then; None when there is no such task."""
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._cancel.send(cancel_arguments(task_id, ttl), lambda reply, _: resolve(future, reply))
        status: str | None = await future
        return status

    async def workers(self) -> list[WorkerReport]:
        """The workers that are alive, by name."""
        names = sorted(await self._connection.call("SMEMBERS", keys.WORKERS))
        answers = await self._calls(*(("HMGET", keys.worker(name), "state", "cause") for name in names))
        return read_reports(names, answers)

    async def speed(self) -> QueueSpeed | None:
        """The speed at which tasks that wait are run; None while too little is known."""
        names, known, claimed = await self._calls(
            ("SMEMBERS", keys.WORKERS), ("HMGET", keys.RUN_TIMES, "count", "mean"), ("HLEN", keys.OWNERS)
        )
        reports = await self._calls(*(("HGETALL", keys.worker(name)) for name in names))
        return read_speed(known, claimed, reports)

    async def _calls(self, *commands: tuple[Word, ...]) -> list[Any]:
        return await asyncio.gather(*(self._connection.call(*command) for command in commands))
