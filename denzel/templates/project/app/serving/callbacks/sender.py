"""Callbacks: the results of ended tasks, sent to their `callback_uri`, many at the same time."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from redis import RedisError

from app.serving.callback_uri import without_password
from app.serving.store.outbox import AttemptResult, Callback, Outbox

log = logging.getLogger(__name__)

#: Callbacks sent at the same time, at most: in all, and to one receiver.
IN_FLIGHT = 512
PER_ENDPOINT = 16

#: Bytes of their results. The last one taken may pass it: a result of any size is sent.
BYTES_IN_FLIGHT = 64 * 1024 * 1024

#: Seconds between two looks at whether there is something to do, when nobody says so; and seconds between two steps
#: while there is much of it, so that one step can settle and take many.
POLL_INTERVAL = 1.0
BATCH_INTERVAL = 0.004

#: How many callbacks that were delivered one line of the log names.
CALLBACKS_A_LINE = 16

#: Seconds after which a sender says again that it still has what it sends: a third of the outbox's LEASE.
RENEW_EVERY = 5.0

#: Seconds that what is on its way gets when the sender stops. The worker waits a second longer.
SHUTDOWN_GRACE = 3.0


class CallbackSender:
    """Takes callbacks from the outbox and sends them, many at a time. One thread speaks with Redis, others send."""

    def __init__(
        self,
        outbox: Outbox,
        send: Callable[[Callback], AttemptResult],
        *,
        rest: Callable[[], None],
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """`rest` is called every few seconds; `beat` at least once in each, also while Redis is away."""
        self._outbox = outbox
        self._send = send
        self._rest = rest
        self._beat = beat
        self._in_flight: set[Callback] = set()
        self._work: SimpleQueue[Callback] = SimpleQueue()
        self._done: SimpleQueue[tuple[Callback, AttemptResult]] = SimpleQueue()
        self._unsettled: list[tuple[Callback, AttemptResult]] = []
        self._threads = 0
        self._news = threading.Event()
        self._idle = threading.Event()
        self._stopping = threading.Event()
        self._renewed_at = time.monotonic()
        self._pruned = 0

    def run(self) -> None:
        """Send callbacks until told to stop; those on their way then have STOP_GRACE seconds."""
        listener = threading.Thread(target=self._listen, daemon=True)
        listener.start()
        while not self._stopping.is_set():
            self._beat()
            try:
                self._settle()
                self._renew()
                wait = self._take()
            except RedisError as error:
                log.warning("cannot read callbacks, trying again: %s", error)
                # What is in flight comes first when Redis is back: its lease may be running out.
                self._renewed_at = float("-inf")
                self._stopping.wait(POLL_INTERVAL)
                continue
            self._rest_until_news(wait)
        self._finish()
        listener.join()

    def stop(self) -> None:
        """Let `run` come to its end; to be called from another thread."""
        self._stopping.set()
        self._news.set()

    def _rest_until_news(self, wait: float) -> None:
        if not wait:
            self._stopping.wait(BATCH_INTERVAL)
            return
        self._idle.set()
        self._news.wait(wait)
        self._idle.clear()
        self._news.clear()

    def _listen(self) -> None:
        """Wakes the other thread when a callback was added, unless it looks anyway."""
        while not self._stopping.is_set():
            try:
                if self._idle.wait(POLL_INTERVAL) and self._outbox.wait(POLL_INTERVAL):
                    self._news.set()
            except RedisError:
                self._stopping.wait(POLL_INTERVAL)

    def _take(self) -> float:
        """Begin to send what is due; returns the seconds until there may be more."""
        taken, next_in = self._outbox.take(
            free=IN_FLIGHT - len(self._in_flight),
            per_endpoint=PER_ENDPOINT,
            free_bytes=BYTES_IN_FLIGHT - sum(len(callback.result) for callback in self._in_flight),
            busy=Counter(callback.endpoint for callback in self._in_flight),
        )
        for callback in taken:
            self._in_flight.add(callback)
            if self._threads < len(self._in_flight):
                self._threads += 1
                threading.Thread(target=self._work_on, name=f"callback-{self._threads}", daemon=True).start()
            self._work.put(callback)
        if taken:
            return 0
        return POLL_INTERVAL if next_in is None else min(next_in, POLL_INTERVAL)

    def _work_on(self) -> None:
        while True:
            callback = self._work.get()
            self._done.put((callback, self._send(callback)))
            self._news.set()

    def _settle(self) -> None:
        """Record how callbacks ended; what Redis does not hear of now is said again later."""
        while not self._done.empty():
            self._unsettled.append(self._done.get())
        self._outbox.settle(self._unsettled)
        self._in_flight.difference_update(callback for callback, _ in self._unsettled)
        _report(self._unsettled)
        self._unsettled.clear()

    def _renew(self) -> None:
        if time.monotonic() - self._renewed_at < RENEW_EVERY:
            return
        self._outbox.renew(self._in_flight)
        self._renewed_at = time.monotonic()
        self._pruned = self._outbox.prune(self._pruned)
        self._rest()

    def _finish(self) -> None:
        """Wait for what is on its way, and give back what is not through."""
        ends = time.monotonic() + SHUTDOWN_GRACE
        try:
            self._settle()
            while self._in_flight and time.monotonic() < ends:
                self._news.wait(max(0.0, min(POLL_INTERVAL, ends - time.monotonic())))
                self._news.clear()
                self._settle()
            self._outbox.release(self._in_flight)
        except RedisError as error:
            log.warning("cannot give callbacks back; they are sent again: %s", error)


def _report(settled: Sequence[tuple[Callback, AttemptResult]]) -> None:
    delivered = [
        f"{callback.task_id} to {without_password(callback.uri)}" for callback, outcome in settled if outcome.delivered
    ]
    for first in range(0, len(delivered), CALLBACKS_A_LINE):
        log.info("callbacks delivered: %s", ", ".join(delivered[first : first + CALLBACKS_A_LINE]))
    for callback, outcome in settled:
        if not outcome.delivered:
            _report_failure(callback, outcome)


def _report_failure(callback: Callback, outcome: AttemptResult) -> None:
    which, where = f"callback of task {callback.task_id}", without_password(callback.uri)
    if outcome.retry_in is not None:
        log.warning("%s not delivered to %s: %s; next try in %d s", which, where, outcome.error, outcome.retry_in)
    else:
        log.error("%s given up: %s: %s", which, where, outcome.error)
