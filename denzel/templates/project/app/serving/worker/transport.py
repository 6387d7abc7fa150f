"""Kombu's Redis transport, with claims that outlive a connection.

Kombu takes a message with BRPOP and notes it afterwards: a worker that is killed in between loses it. When a connection
breaks, Kombu restores messages although their tasks still run. Here messages are claimed (store/claims.py), and a
connection only signals that there is something to claim.

The only module that uses Kombu's internals (`kombu.transport.redis`, `virtual`), as read in 5.7.0.
"""

from __future__ import annotations

from queue import Empty
from time import monotonic
from typing import Any, ClassVar

from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.json import loads
from redis.exceptions import OutOfMemoryError

from app.serving.store import keys
from app.serving.worker.batching.dispatcher import Dispatcher

#: A key that never exists, to block on.
_NOTHING = "denzel:nothing"


class QoS(virtual.QoS):  # type: ignore[misc]
    """Settles messages through the claims; their channel may be closed by then."""

    def can_consume(self) -> bool:
        """True when the queue may be polled; other channels, and replies that are in flight, are always read."""
        return bool(self.channel._in_poll) or not self.channel.active_queues or self.channel.dispatcher.capacity() > 0

    def ack(self, delivery_tag: str) -> None:
        self.channel.dispatcher.claims.ack(delivery_tag)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Requeue or drop a message; Celery rejects with `requeue` when the task's process has died."""
        if requeue:
            for task in self.channel.dispatcher.claims.requeue({delivery_tag: True}):
                self.channel.dispatcher.events.dead_lettered(task)
        else:
            self.channel.dispatcher.claims.ack(delivery_tag)
        super().ack(delivery_tag)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Restore nothing: a connection is gone, and the tasks still run."""
        self._on_collect.cancel()

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """Restore nothing: the worker renews its claims, and requeues those that nobody renews."""


class Channel(stock.Channel):  # type: ignore[misc]
    """Blocks until the queue has a message, and lets the dispatcher take what the worker has capacity for."""

    QoS = QoS

    #: Set in a worker. Not a transport option: the dashboard reads those, as JSON.
    dispatcher: ClassVar[Dispatcher]

    _memory_is_full = False

    def _brpop_start(self, timeout: float | None = None) -> None:
        if not self.active_queues:
            return
        seconds = timeout or self.brpop_timeout
        # From the end of the list to the same end, so the list does not change. Redis refuses that at its memory limit.
        # The message in the reply is ignored; blocking on any other key would miss what other clients send.
        command = ["BLMOVE", keys.QUEUE, keys.QUEUE, "RIGHT", "RIGHT", seconds]
        if self._memory_is_full:
            command = ["BLPOP", _NOTHING, seconds]
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        self.client.connection.send_command(*command)

    def _brpop_read(self, **options: Any) -> bool:
        found = self._memory_is_full
        try:
            found = self.client.parse_response(self.client.connection, "BLMOVE", **options) is not None or found
            self._memory_is_full = False
        except OutOfMemoryError:
            self._memory_is_full = found = True
        except self.connection_errors:
            # The next poll makes a new one.
            self.client.connection.disconnect()
            raise
        finally:
            self._in_poll = None
        # A consumer that was cancelled meanwhile, for a shutdown, takes nothing more.
        is_consuming = found and self.active_queues and not self._closing
        messages = self.dispatcher.take() if is_consuming else []
        for message in messages:
            self.connection._deliver(loads(message), keys.QUEUE)
        if not messages:
            raise Empty
        return True

    def _queue_bind(self, *arguments: Any, **options: Any) -> None:
        try:
            super()._queue_bind(*arguments, **options)
        except OutOfMemoryError:
            # It was bound when the worker first ran; at its memory limit, Redis refuses every command that could add.
            stock.warning("Redis is at its memory limit; going on")


class Transport(stock.Transport):  # type: ignore[misc]
    """Redis, through claims."""

    Channel = Channel
