"""A way to a real Redis that a test can close for a while, and that can lose an answer."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class FlakyRedis:
    """A proxy on a port of its own. The server behind it goes on, and answers others."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._behind = (parts.hostname or "", parts.port or 0)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(f":{parts.port}/", f":{self._server.getsockname()[1]}/")
        self._open: list[socket.socket] = []
        self.is_away = False
        self._lost = b""
        self.lost_answers = 0
        #: Connections that were broken at once, while it was away.
        self.refused = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def go_away(self) -> None:
        """Break all connections, and each new one, until `come_back`."""
        self.is_away = True
        self._break_all()

    def come_back(self) -> None:
        self.is_away = False

    def lose_answer_to(self, text: str) -> None:
        """Let the server do the next request with this text, and break its connection in place of the answer."""
        self._lost = text.encode()

    def close(self) -> None:
        self.is_away = True
        self._server.close()
        self._break_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if self.is_away:
                    self.refused += 1
                    client.close()
                    continue
                server = socket.create_connection(self._behind)
                self._open += [client, server]
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        """Pass on what comes from either side, until one of them ends or an answer is to be lost."""
        with contextlib.suppress(OSError, ValueError):
            loses = False
            while not self.is_away:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        raise ConnectionError
                    if source is client:
                        loses = bool(self._lost) and self._lost in data
                        self._lost = b"" if loses else self._lost
                        server.sendall(data)
                    elif loses:
                        self.lost_answers += 1
                        raise ConnectionError
                    else:
                        client.sendall(data)
        self._break(client, server)

    def _break_all(self) -> None:
        self._break(*self._open)
        self._open.clear()

    @staticmethod
    def _break(*connections: socket.socket) -> None:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@contextlib.contextmanager
def flaky_redis(url: str) -> Iterator[FlakyRedis]:
    """A way to the Redis at `url`, open until the end of the block."""
    proxy = FlakyRedis(url)
    try:
        yield proxy
    finally:
        proxy.close()
