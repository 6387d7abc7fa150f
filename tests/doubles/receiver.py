"""HTTP servers for tests: one without a log, and an endpoint of callbacks that records its requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeVar


class Server(ThreadingHTTPServer):
    """A thread for each connection; clients that give up are no error."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    """Whole requests and responses, without a log."""

    def content(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def answer_json(self, status: int, value: Any, **headers: str) -> None:
        self.answer(status, json.dumps(value).encode(), **headers)

    def log_message(self, *_: Any) -> None:
        pass


Serving = TypeVar("Serving", bound=Server)


@contextmanager
def running(server: Serving) -> Iterator[Serving]:
    """Run the server until the end of the `with`."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Received(NamedTuple):
    """A recorded request."""

    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


class Receiver(Server):
    """An endpoint of callbacks: it sends `answers` in turn, each a status or a status with headers, then `status`.

    While it is `hanging`, requests wait until it is `released`.
    """

    def __init__(self, *answers: int | tuple[int, dict[str, str]], port: int = 0) -> None:
        # Containers come in over Docker's bridge, so loopback alone is not enough.
        super().__init__(("0.0.0.0", port), _ReceiverHandler)
        self.answers = list(answers)
        self.status = 200
        self.content: Callable[[], bytes] = bytes
        self.received: list[Received] = []
        self.hanging = False
        self.released = threading.Event()

    def uri(self, backend: str = "local", *, path: str = "/stash") -> str:
        return uri_for(backend, self.server_port, path)

    @property
    def bodies(self) -> list[Any]:
        return [request.body for request in self.received]

    @property
    def ids(self) -> list[str]:
        """Task ids of the callbacks, in the order of their arrival."""
        return [request.headers["webhook-id"] for request in self.received]


class _ReceiverHandler(Handler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        self.server.received.append(Received(dict(self.headers), self.content()))
        if self.server.hanging:
            self.server.released.wait(30)
        answer = self.server.answers.pop(0) if self.server.answers else self.server.status
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        self.answer(status, self.server.content(), **headers)

    do_GET = do_POST


def uri_for(backend: str, port: int, path: str = "/stash") -> str:
    """The address at which the services of a backend reach a port of this machine."""
    return f"http://{'host.docker.internal' if backend == 'docker' else '127.0.0.1'}:{port}{path}"


@contextmanager
def receiving(*answers: int | tuple[int, dict[str, str]], port: int = 0) -> Iterator[Receiver]:
    """A running receiver; at the end of the `with`, requests that hang are released."""
    with running(Receiver(*answers, port=port)) as receiver:
        try:
            yield receiver
        finally:
            receiver.released.set()
