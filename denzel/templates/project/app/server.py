"""How gunicorn serves the api: its threads, and its own errors in the api's shape."""

from __future__ import annotations

import struct
from http import HTTPStatus
from socket import SO_RCVTIMEO, SOL_SOCKET, socket
from typing import Any

from gunicorn import util
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.workers import gthread

from app.problems import problem


def write_error(sock: socket, status_int: int, reason: str, mesg: str) -> None:
    """Answer a request that is not HTTP enough to reach the application; gunicorn's own answer is an HTML page."""
    body = problem(status_int, reason or HTTPStatus(status_int).phrase, mesg).encode()
    head = (
        f"HTTP/1.1 {status_int} {reason}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    sock.sendall(head.encode("latin1") + body)


#: Seconds that a client may be silent in the middle of a request.
SILENCE = 20

#: What reading a body raises when it breaks the rules of HTTP, breaks off, or does not go on.
UNREADABLE = (ParseException, NoMoreData, BlockingIOError)


class Worker(gthread.ThreadWorker):
    """gunicorn's threaded worker, answering in JSON whatever goes wrong."""

    def init_process(self) -> None:
        util.write_error = write_error
        super().init_process()

    def handle(self, conn: Any) -> Any:
        """Serve one request, of which gunicorn would await the rest without end, and hold a thread meanwhile."""
        conn.sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, struct.pack("ll", SILENCE, 0))
        return super().handle(conn)
