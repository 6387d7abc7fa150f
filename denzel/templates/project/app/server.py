"""How gunicorn serves the api: its threads, and its own errors in the api's shape."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from gunicorn.workers import base, gthread

from app.problems import problem


def write_error(sock: Any, status: int, reason: str, message: str) -> None:
    """Answer a request that is not HTTP enough to reach the application; gunicorn's own answer is an HTML page."""
    body = problem(status, reason or HTTPStatus(status).phrase, message).encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    sock.sendall(head.encode("latin1") + body)


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker, answering in JSON whatever goes wrong."""

    def init_process(self) -> None:
        base.util.write_error = write_error
        super().init_process()
