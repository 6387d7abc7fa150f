"""Deadlines for exchanges over sockets, whatever the other side does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Seconds between two checks of the deadlines.
TICK = 0.1


class Deadlines:
    """One thread that shuts down the sockets whose exchange has taken too long.

    A socket's own time-out is for each read: an endpoint that sends a byte now and then never reaches it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[Deadline] = set()
        self._busy = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watch(self, sock: socket.socket, seconds: float) -> Iterator[Deadline]:
        """Shut the socket down when this block takes longer; any error is then raised as TimeoutError."""
        deadline = Deadline(sock, seconds)
        with self._lock:
            self._watched.add(deadline)
            if self._thread is None:
                self._thread = threading.Thread(target=self._enforce, name="deadlines", daemon=True)
                self._thread.start()
        self._busy.set()
        try:
            yield deadline
        except Exception as error:
            if deadline.is_over:
                raise TimeoutError(deadline.message) from error
            raise
        finally:
            with self._lock:
                self._watched.discard(deadline)

    def _enforce(self) -> None:
        while True:
            self._busy.wait()
            with self._lock:
                watched = list(self._watched)
                if not watched:
                    self._busy.clear()
            for deadline in watched:
                deadline.enforce()
            time.sleep(TICK)


class Deadline:
    """The deadline of one exchange."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._sock = sock
        self._ends = time.monotonic() + seconds
        self.is_over = False
        self.message = f"no whole answer within {seconds:g} s"

    def check(self) -> None:
        """Raise TimeoutError when the socket was shut down."""
        if self.is_over:
            raise TimeoutError(self.message)

    def shorten(self, seconds: float) -> None:
        """Leave at most this time from now on."""
        self._ends = min(self._ends, time.monotonic() + seconds)

    def enforce(self) -> None:
        """Shut the socket down if the deadline has passed."""
        if self.is_over or time.monotonic() < self._ends:
            return
        self.is_over = True
        with suppress(OSError):
            # Not SSLSocket's own method, which would change it while another thread reads from it.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
