"""Supervisor of the worker and the sender of callbacks: replaces what ends or hangs, and stops both in order."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from app.serving.supervisor.child import Child

#: Seconds between two checks of the heartbeats.
CHECK_INTERVAL = 5.0

#: Seconds before the end of STOP_TIMEOUT. The worker has a deadline of its own, at which it requeues its tasks: then
#: the sender is stopped too. What still runs later is killed, and in the end left to whatever kills the service.
SENDER_STOP_MARGIN = 5.0
KILL_MARGIN = 1.0
EXIT_MARGIN = 0.5

#: Seconds that the sender gets to end what is in flight.
SENDER_GRACE = 4.0

#: Seconds that an order to Redis may take.
ORDER_TIMEOUT = 2.0


class Supervisor:
    """Keeps a worker and a sender running until SIGTERM or SIGINT.

    `order` is a command that takes `touch` or `forget`, to renew or to remove the worker's report in Redis.
    """

    def __init__(
        self,
        worker: Child,
        sender: Child,
        order: Sequence[str],
        *,
        stop_timeout: float,
        check_interval: float = CHECK_INTERVAL,
    ) -> None:
        self._worker = worker
        self._sender = sender
        self._children = (worker, sender)
        self._order_command = order
        self._stop_timeout = stop_timeout
        self._check_interval = check_interval
        self._check_at = time.monotonic() + check_interval
        #: The orders that run, and when they are killed.
        self._orders: dict[int, float] = {}
        self._exit_code = 0
        self._stopping_since: float | None = None
        self._is_worker_told = False
        self._sender_ends_at: float | None = None

    def run(self) -> int:
        """Run until both children were stopped; returns the exit code.

        It is 0 but for a child that has never been up, and ended by itself: as its settings are invalid, for one.
        """
        wakeups = self._handle_signals()
        # The report of a worker that was killed, with the container, must not count for this one.
        self._order("forget")
        while True:
            now = time.monotonic()
            self._reap(now)
            if self._stopping_since is not None:
                self._advance_stop(now, self._stopping_since)
                if self._is_stopped(now, self._stopping_since):
                    return self._exit_code
            self._start_due(now)
            self._check(now)
            select.select([wakeups], [], [], max(0.0, self._due_at(now) - time.monotonic()))
            with suppress(BlockingIOError):
                os.read(wakeups, 1024)

    def _handle_signals(self) -> int:
        """Let signals to stop, and the ends of children, write to a pipe; returns its reading end."""
        wakeups, output = os.pipe()
        for end in (wakeups, output):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(output, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._begin_stop())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # That of a terminal that was closed. The children inherit it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return wakeups

    # ------------------------------------------------------------------ children

    def _reap(self, now: float) -> None:
        for child in self._children:
            code = child.reap()
            if code is not None:
                self._after_end(child, code, now)
        for pid, kill_at in list(self._orders.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self._orders[pid]
            elif now >= kill_at:
                os.kill(pid, signal.SIGKILL)

    def _after_end(self, child: Child, code: int, now: float) -> None:
        if child is self._worker and code and (self._stopping_since is not None or not child.is_loading):
            # It could not remove its report itself. After a load that killed it, the next start reports the cause.
            self._order("forget")
        if self._is_told_to_stop(child):
            log("INFO", f"the {child.name} {how_ended(code)}")
        elif code > 0 and not child.has_been_up:
            log("ERROR", f"the {child.name} {how_ended(code)} before it was up: ending too")
            self._exit_code = code
            self._begin_stop()
        else:
            while_loading = " while loading the model" if child.is_loading else ""
            pause = child.plan_restart(code, now)
            log("ERROR", f"the {child.name} {how_ended(code)}{while_loading}; starting it again in {pause:g} s")

    def _start_due(self, now: float) -> None:
        for child in self._children:
            if child.start_at is not None and now >= child.start_at and not self._is_told_to_stop(child):
                try:
                    child.start(now)
                except OSError as error:
                    pause = child.plan_restart(None, now)
                    log("ERROR", f"the {child.name} cannot be started: {error}; trying again in {pause:g} s")

    def _check(self, now: float) -> None:
        if now < self._check_at:
            return
        self._check_at = now + self._check_interval
        for child in self._children:
            is_watched = child.pid is not None and not self._is_told_to_stop(child)
            if is_watched and child.hangs() and child.send(signal.SIGKILL):
                log("ERROR", f"the {child.name} hangs, as it gives no heartbeat: killing it")
        if self._worker.is_loading and not self._is_told_to_stop(self._worker):
            self._order("touch")

    def _order(self, what: str) -> None:
        """Start an order, and let it run beside everything else. Where Redis is away, the report expires by itself."""
        null = [(os.POSIX_SPAWN_OPEN, output, os.devnull, os.O_WRONLY, 0) for output in (1, 2)]
        command = [*self._order_command, what]
        try:
            pid = os.posix_spawnp(command[0], command, os.environ, file_actions=null)
        except OSError as error:
            log("WARNING", f"{' '.join(command)} cannot be started: {error}")
        else:
            self._orders[pid] = time.monotonic() + ORDER_TIMEOUT

    def _due_at(self, now: float) -> float:
        """The time of what is to be done next, if no signal comes before."""
        times = [self._check_at, *self._orders.values()]
        times += [child.start_at for child in self._children if child.start_at is not None]
        if self._stopping_since is not None:
            ends = self._stopping_since + self._stop_timeout
            times += [ends - margin for margin in (SENDER_STOP_MARGIN, KILL_MARGIN, EXIT_MARGIN)]
        if self._sender_ends_at is not None:
            times.append(self._sender_ends_at)
        # What was due before is done, and perhaps waits for the end of a process, which is a signal.
        return min(at for at in times if at > now)

    # ------------------------------------------------------------------ stop

    def _is_told_to_stop(self, child: Child) -> bool:
        """True for the worker since the stop began, and for the sender since the worker has ended."""
        return (self._stopping_since if child is self._worker else self._sender_ends_at) is not None

    def _begin_stop(self) -> None:
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()

    def _advance_stop(self, now: float, since: float) -> None:
        """Stop the sender after the worker, and kill what takes too long."""
        left = since + self._stop_timeout - now
        if not self._is_worker_told:
            self._is_worker_told = True
            if not self._worker.send(signal.SIGTERM):
                # It has died, and its report stands until the next start.
                self._order("forget")
        if self._sender_ends_at is None and (self._worker.pid is None or left <= SENDER_STOP_MARGIN):
            self._sender_ends_at = now + SENDER_GRACE
            self._sender.send(signal.SIGTERM)
        if left <= KILL_MARGIN and self._worker.send(signal.SIGKILL):
            log("ERROR", "STOP_TIMEOUT is nearly over, and the worker has not ended: killing it")
        if self._sender_ends_at is not None and now >= self._sender_ends_at and self._sender.send(signal.SIGKILL):
            log("ERROR", "the sender has not ended in time: killing it")

    def _is_stopped(self, now: float, since: float) -> bool:
        is_running = self._orders or any(child.pid is not None for child in self._children)
        return not is_running or now >= since + self._stop_timeout - EXIT_MARGIN


def how_ended(code: int) -> str:
    """The end of a process in words, by its exit code, below 0 for a signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def log(level: str, text: str) -> None:
    """Write a line to the service's log, as the children do: without the module `logging`, which takes a megabyte."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    # Who reads the log may be gone.
    with suppress(OSError):
        sys.stderr.write(f"[{stamp},{int(now % 1 * 1000):03}: {level}/Supervisor] {text}\n")
        sys.stderr.flush()
