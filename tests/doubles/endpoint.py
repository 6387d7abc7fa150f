"""An endpoint on a bare socket, which need not speak HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class SocketServer:
    """An endpoint that need not speak HTTP: `handle` is run for each connection, in a thread of its own."""

    def __init__(
        self, handle: Callable[[socket.socket], None], *, family: int = socket.AF_INET, host: str = "127.0.0.1"
    ):
        self._handle = handle
        self.stopped = threading.Event()
        self.accepted = 0
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self.stopped.is_set():
                connection.close()
                return
            self.accepted += 1
            self._threads.append(threading.Thread(target=self._run, args=(connection,)))
            self._threads[-1].start()

    def _run(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(20)
            self._handle(connection)

    def stop(self) -> None:
        self.stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in [self._accepting, *self._threads])


Listen = Callable[..., SocketServer]


def read_request(connection: socket.socket) -> bytes:
    """One request; empty when the client closed."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:
            return b""
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    (length,) = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answer_all(response: bytes, requests: list[bytes]) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        while request := read_request(connection):
            requests.append(request)
            connection.sendall(response)

    return handle
