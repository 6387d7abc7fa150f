"""Receivers of callbacks for the tests of the serving code."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Receiver(http.server.ThreadingHTTPServer):
    """Somebody's server, keeping what it is sent: /status/500 answers with 500, /hang when it is released."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Answer)
        self.received: list[tuple[str, dict[str, str], Any]] = []
        self.released = threading.Event()

    def uri(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.received]


class Answer(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, dict(self.headers), json.loads(content)))
        if self.path.startswith("/hang"):
            self.server.released.wait(30)
        self.send_response(int(self.path.rpartition("/")[2]) if "/status/" in self.path else 200)
        self.send_header("Location", self.server.uri("/elsewhere"))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver on this port of 127.0.0.1, or on any."""
    with Receiver(port) as receiver:
        threading.Thread(target=receiver.serve_forever, args=(0.05,), daemon=True).start()
        yield receiver
        receiver.released.set()
        receiver.shutdown()
