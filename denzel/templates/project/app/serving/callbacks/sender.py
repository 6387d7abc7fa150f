"""Sender of callbacks: takes those that are due from the outbox, and delivers many at the same time."""

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

#: Callbacks in flight at most: in all, and for one endpoint.
IN_FLIGHT = 512
PER_ENDPOINT = 16

#: Bytes of the results in flight. The last one taken may exceed it: a result of any size is sent.
BYTES_IN_FLIGHT = 64 * 1024 * 1024

#: Seconds between two polls of the outbox without a wake-up; and between two while there is much to do, so that one
#: step can settle and take many.
POLL_INTERVAL = 1.0
BATCH_INTERVAL = 0.004

#: Delivered callbacks that one line of the log names.
CALLBACKS_PER_LINE = 16

#: Seconds between two renewals of the leases: a third of the outbox's LEASE.
LEASE_RENEW_INTERVAL = 5.0

#: Seconds that deliveries in flight get when the sender stops. The worker waits a second longer.
SHUTDOWN_GRACE = 3.0


class CallbackSender:
    """Delivery of an outbox's callbacks: one thread uses Redis, others deliver."""

    def __init__(
        self,
        outbox: Outbox,
        deliver: Callable[[Callback], AttemptResult],
        *,
        on_renew: Callable[[], None],
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_renew` is called with each renewal of the leases, every RENEW_EVERY seconds; `on_tick` in each turn of
        the loop, at least as often, also while Redis is away.
        """
        self._outbox = outbox
        self._deliver = deliver
        self._on_renew = on_renew
        self._on_tick = on_tick
        self._in_flight: set[Callback] = set()
        self._work: SimpleQueue[Callback] = SimpleQueue()
        self._done: SimpleQueue[tuple[Callback, AttemptResult]] = SimpleQueue()
        self._unsettled: list[tuple[Callback, AttemptResult]] = []
        self._threads = 0
        self._wakeup = threading.Event()
        self._idle = threading.Event()
        self._stopping = threading.Event()
        self._renewed_at = time.monotonic()
        self._prune_cursor = 0

    def run(self) -> None:
        """Deliver callbacks until `stop`; those in flight then have SHUTDOWN_GRACE seconds."""
        listener = threading.Thread(target=self._listen, daemon=True)
        listener.start()
        while not self._stopping.is_set():
            self._on_tick()
            try:
                self._settle()
                self._renew()
                wait = self._take()
            except RedisError as error:
                log.warning("cannot read callbacks, trying again: %s", error)
                # Renew first when Redis is back: the leases of what is in flight may be about to expire.
                self._renewed_at = float("-inf")
                self._stopping.wait(POLL_INTERVAL)
                continue
            self._wait_for_work(wait)
        self._drain()
        listener.join()

    def stop(self) -> None:
        """Let `run` return; to be called from another thread."""
        self._stopping.set()
        self._wakeup.set()

    def _wait_for_work(self, wait: float) -> None:
        if not wait:
            self._stopping.wait(BATCH_INTERVAL)
            return
        self._idle.set()
        self._wakeup.wait(wait)
        self._idle.clear()
        self._wakeup.clear()

    def _listen(self) -> None:
        """Wake `run` when a callback was added while it is idle."""
        while not self._stopping.is_set():
            try:
                if self._idle.wait(POLL_INTERVAL) and self._outbox.wait(POLL_INTERVAL):
                    self._wakeup.set()
            except RedisError:
                self._stopping.wait(POLL_INTERVAL)

    def _take(self) -> float:
        """Start the delivery of what is due; returns the seconds until there may be more."""
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
                threading.Thread(target=self._deliver_loop, name=f"callback-{self._threads}", daemon=True).start()
            self._work.put(callback)
        if taken:
            return 0
        return POLL_INTERVAL if next_in is None else min(next_in, POLL_INTERVAL)

    def _deliver_loop(self) -> None:
        while True:
            callback = self._work.get()
            self._done.put((callback, self._deliver(callback)))
            self._wakeup.set()

    def _settle(self) -> None:
        """Record the results of attempts; while Redis is away, they are kept for the next time."""
        while not self._done.empty():
            self._unsettled.append(self._done.get())
        self._outbox.settle(self._unsettled)
        self._in_flight.difference_update(callback for callback, _ in self._unsettled)
        _log_results(self._unsettled)
        self._unsettled.clear()

    def _renew(self) -> None:
        if time.monotonic() - self._renewed_at < LEASE_RENEW_INTERVAL:
            return
        self._outbox.renew(self._in_flight)
        self._renewed_at = time.monotonic()
        self._prune_cursor = self._outbox.prune(self._prune_cursor)
        self._on_renew()

    def _drain(self) -> None:
        """Wait for what is in flight, and release what is not finished in time."""
        ends = time.monotonic() + SHUTDOWN_GRACE
        try:
            self._settle()
            while self._in_flight and time.monotonic() < ends:
                self._wakeup.wait(max(0.0, min(POLL_INTERVAL, ends - time.monotonic())))
                self._wakeup.clear()
                self._settle()
            self._outbox.release(self._in_flight)
        except RedisError as error:
            log.warning("cannot release callbacks; they are sent again: %s", error)


def _log_results(settled: Sequence[tuple[Callback, AttemptResult]]) -> None:
    delivered = [
        f"{callback.task_id} to {without_password(callback.uri)}" for callback, result in settled if result.delivered
    ]
    for first in range(0, len(delivered), CALLBACKS_PER_LINE):
        log.info("callbacks delivered: %s", ", ".join(delivered[first : first + CALLBACKS_PER_LINE]))
    for callback, result in settled:
        if not result.delivered:
            _log_failure(callback, result)


def _log_failure(callback: Callback, result: AttemptResult) -> None:
    which, where = f"callback of task {callback.task_id}", without_password(callback.uri)
    if result.retry_in is not None:
        log.warning("%s not delivered to %s: %s; next try in %d s", which, where, result.error, result.retry_in)
    else:
        log.error("%s given up: %s: %s", which, where, result.error)
