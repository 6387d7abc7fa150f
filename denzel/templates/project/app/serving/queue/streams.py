"""Streams of tasks' events: one connection to Redis for all streams of the process, on which changes are announced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis import Redis, RedisError

from app.serving.queue.task_events import Cursor, Event, events_since
from app.serving.store import keys
from app.serving.store.loop.connection import LoopConnection
from app.serving.store.loop.followed import FollowedTasks, TaskState
from app.serving.store.tasks import PENDING, TaskRecord
from app.serving.store.times import QueueSpeed

#: Streams of one process at most.
MAX_STREAMS = 2000

#: Seconds between two looks at the positions of tasks that wait, and between two tries while Redis is away.
POSITION_INTERVAL = 1.0
RETRY_INTERVAL = 1.0


class TooManyStreams(Exception):
    """MAX_STREAMS streams are open."""


class TaskStreams:
    """The open streams of one process."""

    def __init__(self, redis: Redis, measure: Callable[[], Awaitable[QueueSpeed | None]]) -> None:
        """`measure` gives the queue's speed, for the estimates of tasks that wait."""
        #: The speed by the last measurement.
        self.speed: QueueSpeed | None = None
        self._measure_speed = measure
        self._streams: dict[str, list[TaskStream]] = {}
        self._number = 0
        self._poll: asyncio.Task[None] | None = None
        self._connection = LoopConnection(
            redis,
            on_message=self._on_message,
            on_connect=self._wake_all,
            must_listen=lambda: bool(self._streams),
        )
        self.tasks = FollowedTasks(self._connection)

    @property
    def is_full(self) -> bool:
        """True when no other stream may be opened."""
        return self._number >= MAX_STREAMS

    async def open(self, task_id: str, cursor: Cursor) -> TaskStream | None:
        """The stream of a task from this cursor on, to be closed at last; None for an unknown task.

        Raises TooManyStreams, and redis.RedisError when Redis is away.
        """
        if self.is_full:
            raise TooManyStreams
        stream = TaskStream(self, task_id, cursor)
        self._number += 1
        self._streams.setdefault(task_id, []).append(stream)
        try:
            # First: what changes behind the look is announced.
            await self._connection.subscribe(keys.changes(task_id))
            is_known = await stream.look()
            if stream.is_waiting:
                await self._measure()
        except BaseException:
            stream.close()
            raise
        if not is_known:
            stream.close()
            return None
        if self._poll is None:
            self._poll = asyncio.get_running_loop().create_task(self._follow_positions())
        return stream

    def drop(self, stream: TaskStream) -> None:
        """Forget a stream that is closed."""
        self._number -= 1
        streams = self._streams[stream.task_id]
        streams.remove(stream)
        if not streams:
            del self._streams[stream.task_id]
            self._connection.unsubscribe(keys.changes(stream.task_id))

    def close(self) -> None:
        """End the connection, and all streams."""
        for streams in list(self._streams.values()):
            for stream in list(streams):
                stream.close()
        if self._poll is not None:
            self._poll.cancel()
        self._connection.close()

    async def _measure(self) -> None:
        self.speed = await self._measure_speed()

    def _on_message(self, channel: str, text: str) -> None:
        for stream in self._streams.get(channel.removeprefix(keys.CHANGES), ()):
            stream.wake()

    def _wake_all(self) -> None:
        """Let all look: what was announced before this subscription was missed."""
        for streams in self._streams.values():
            for stream in streams:
                stream.wake()

    async def _follow_positions(self) -> None:
        """Wake the streams of tasks whose position has changed, while there are streams."""
        while self._streams:
            await asyncio.sleep(POSITION_INTERVAL)
            waiting = [stream for streams in self._streams.values() for stream in streams if stream.is_waiting]
            if not waiting:
                continue
            with suppress(RedisError):
                await self._measure()
                positions = await self.tasks.positions([stream.task_id for stream in waiting])
                for stream, position in zip(waiting, positions, strict=True):
                    if position != stream.position:
                        stream.wake()
        self._poll = None


class TaskStream:
    """The events of one task for one reader. What the reader does not take is not read, so it may be slow."""

    def __init__(self, streams: TaskStreams, task_id: str, cursor: Cursor) -> None:
        self.task_id = task_id
        #: The record, once the task has ended and its last outputs were read.
        self.record: TaskRecord | None = None
        self.cursor = cursor
        self._streams = streams
        self._state: TaskState | None = None
        # The state has events that were not taken; and it may have changed since it was read.
        self._is_fresh = False
        self._changed = asyncio.Event()
        self._is_closed = False

    @property
    def is_waiting(self) -> bool:
        """True while the task waits in the queue."""
        return self._state is not None and self._state.status == PENDING

    @property
    def position(self) -> int | None:
        """The place in the queue at the last look."""
        return None if self._state is None else self._state.position

    def wake(self) -> None:
        """Let the stream look at its task again."""
        self._changed.set()

    def close(self) -> None:
        """End the stream: `next` returns at once."""
        if not self._is_closed:
            self._is_closed = True
            self._streams.drop(self)
            self._changed.set()

    async def look(self) -> bool:
        """Read the task's state; False when it is unknown, or its record has expired."""
        self._changed.clear()
        restarts, outputs = self.cursor.restarts, self.cursor.outputs
        state = self._state = await self._streams.tasks.read(self.task_id, restarts=restarts, outputs=outputs)
        if state is None:
            return False
        self.record, self._is_fresh = state.record, True
        if state.has_more:
            self._changed.set()
        return True

    async def next(self) -> list[Event]:
        """The next events, as soon as there are any; none when the stream is over. Redis may be away meanwhile.

        Nothing is lost when it is cancelled.
        """
        while not (self._is_closed or self.cursor.is_at_end):
            if self._is_fresh:
                self._is_fresh = False
                if events := self._take():
                    return events
            await self._changed.wait()
            if not self._is_closed and not await self._look_again():
                break
        return []

    async def _look_again(self) -> bool:
        try:
            return await self.look()
        except RedisError:
            self._changed.set()
            await asyncio.sleep(RETRY_INTERVAL)
            return True
        except BaseException:
            self._changed.set()
            raise

    def _take(self) -> list[Event]:
        """The events of the state that was read last."""
        state = self._state
        assert state is not None
        speed = self._streams.speed
        eta = speed.eta(state.position) if speed and state.position else None
        events = list(events_since(self.cursor, self.task_id, state, eta))
        if events:
            self.cursor = events[-1].cursor
        return events
