"""Ends in time for exchanges over sockets, whatever the other side does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Seconds between two looks at which requests are over.
TICK = 0.1


class Deadlines:
    """Cuts connections whose request has taken too long, in one thread for all.

    The time-out of a socket is one of silence: a receiver that sends a byte now and then never meets it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[Watch] = set()
        self._busy = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watch(self, sock: socket.socket, seconds: float) -> Iterator[Watch]:
        """Cuts the socket when this block takes longer; what is raised then is TimeoutError."""
        watch = Watch(sock, seconds)
        with self._lock:
            self._watched.add(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._cut, name="deadlines", daemon=True)
                self._thread.start()
        self._busy.set()
        try:
            yield watch
        except Exception as error:
            if watch.over:
                raise TimeoutError(watch.complaint) from error
            raise
        finally:
            with self._lock:
                self._watched.discard(watch)

    def _cut(self) -> None:
        while True:
            self._busy.wait()
            with self._lock:
                watched = list(self._watched)
                if not watched:
                    self._busy.clear()
            for watch in watched:
                watch.cut_if_over()
            time.sleep(TICK)


class Watch:
    """One request that is watched."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._sock = sock
        self._ends = time.monotonic() + seconds
        self.over = False
        self.complaint = f"no whole answer within {seconds:g} s"

    def check(self) -> None:
        """Raise TimeoutError when the request was cut."""
        if self.over:
            raise TimeoutError(self.complaint)

    def shorten(self, seconds: float) -> None:
        """What remains may take this long at most."""
        self._ends = min(self._ends, time.monotonic() + seconds)

    def cut_if_over(self) -> None:
        if self.over or time.monotonic() < self._ends:
            return
        self.over = True
        with suppress(OSError):
            # Not by the method of a TLS socket, which would change it while another thread reads from it.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
