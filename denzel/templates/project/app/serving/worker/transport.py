"""How Celery's worker gets its messages: Kombu's Redis transport, with claims that outlive a connection.

Kombu takes a message with BRPOP and notes it afterwards: a worker that is killed in between loses it. When a connection
breaks it gives back what it has, although it still runs. Here messages are claimed (store/claims.py), and a connection
only tells when there is something to claim.
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

#: A key that never exists: waiting for it is waiting.
_NOTHING = "denzel:nothing"


class QoS(virtual.QoS):  # type: ignore[misc]
    """What became of a message is said to the claims; its channel may be closed by then."""

    def can_consume(self) -> bool:
        """Whether to wait at the queue; other channels, and answers that are on their way, are always read."""
        return bool(self.channel._in_poll) or not self.channel.active_queues or self.channel.dispatcher.capacity() > 0

    def ack(self, delivery_tag: str) -> None:
        self.channel.dispatcher.claims.ack(delivery_tag)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Celery rejects with `requeue` when the process that ran the task has died."""
        if requeue:
            for task in self.channel.dispatcher.claims.requeue({delivery_tag: True}):
                self.channel.dispatcher.given_up(task)
        else:
            self.channel.dispatcher.claims.ack(delivery_tag)
        super().ack(delivery_tag)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Nothing: a connection is gone, and the tasks still run."""
        self._on_collect.cancel()

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """Nothing: the worker renews its claims, and gives back those that nobody renews."""


class Channel(stock.Channel):  # type: ignore[misc]
    """Waits until the queue holds something, and lets the worker take what it has room for."""

    QoS = QoS

    #: Set by whoever runs a worker. It is no transport option: the dashboard asks for these, and wants them in JSON.
    dispatcher: ClassVar[Dispatcher]

    _memory_is_full = False

    def _brpop_start(self, timeout: float | None = None) -> None:
        if not self.active_queues:
            return
        seconds = timeout or self.brpop_timeout
        # From the end of the list to the same end: the list stays as it is. Redis refuses that at its memory limit. The
        # message comes along and is thrown away; waiting for anything else would miss what other clients send.
        command = ["BLMOVE", keys.QUEUE, keys.QUEUE, "RIGHT", "RIGHT", seconds]
        if self._memory_is_full:
            command = ["BLPOP", _NOTHING, seconds]
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        self.client.connection.send_command(*command)

    def _brpop_read(self, **options: Any) -> bool:
        look = self._memory_is_full
        try:
            look = self.client.parse_response(self.client.connection, "BLMOVE", **options) is not None or look
            self._memory_is_full = False
        except OutOfMemoryError:
            self._memory_is_full = look = True
        except self.connection_errors:
            # The next round makes a new one.
            self.client.connection.disconnect()
            raise
        finally:
            self._in_poll = None
        # A consumer that was cancelled meanwhile, to stop, takes nothing more.
        wanted = look and self.active_queues and not self._closing
        messages = self.dispatcher.take() if wanted else []
        for message in messages:
            self.connection._deliver(loads(message), keys.QUEUE)
        if not messages:
            raise Empty
        return True

    def _queue_bind(self, *arguments: Any, **options: Any) -> None:
        try:
            super()._queue_bind(*arguments, **options)
        except OutOfMemoryError:
            # It is bound since the worker first ran; at the memory limit no command is allowed that could need more.
            stock.warning("Redis is at its memory limit; going on")


class Transport(stock.Transport):  # type: ignore[misc]
    """Redis, through claims."""

    Channel = Channel
