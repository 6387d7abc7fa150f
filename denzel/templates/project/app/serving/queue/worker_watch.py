"""Watch over the workers' reports: whether any can run tasks, read once a second while requests wait for results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from redis import RedisError

from app.serving.store.workers import WorkerReport, WorkerState

#: Seconds between two reads, and for which they go on after the last request that waits.
INTERVAL = 1.0
KEEP = 10.0


class NoWorker(Exception):
    """No worker can run tasks, for the cause in the message, and the request would wait for one; it was rejected."""


class WorkerWatch:
    """The latest reports of the workers, for one event loop."""

    def __init__(self, read: Callable[[], Awaitable[list[WorkerReport]]], *, interval: float = INTERVAL) -> None:
        self._read = read
        self._interval = interval
        self._failure = ""
        self._used = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._first = asyncio.Event()

    async def failure(self) -> str:
        """The cause why no worker can run tasks; empty when one can, or may soon, and where none reports.

        It is at most `interval` seconds old. Only the first request after a pause waits for an answer of Redis.
        """
        self._used = time.monotonic()
        if self._reading is None or self._reading.done():
            self._first.clear()
            self._reading = asyncio.get_running_loop().create_task(self._read_on())
        if not self._first.is_set():
            await self._first.wait()
        return self._failure

    def close(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read_on(self) -> None:
        try:
            while time.monotonic() - self._used < KEEP:
                try:
                    self._failure = _failure(await self._read())
                except RedisError:
                    # The request itself finds out.
                    self._failure = ""
                self._first.set()
                await asyncio.sleep(self._interval)
        finally:
            self._first.set()


def _failure(reports: list[WorkerReport]) -> str:
    causes = [report.cause or "the worker fails" for report in reports if report.state is WorkerState.ERROR]
    return causes[0] if causes and len(causes) == len(reports) else ""
