"""The HTTP server under whatever receives callbacks."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

#: Bytes that the body of a callback may have.
BODY_LIMIT = 64 * 2**20

#: Seconds that a sender may be silent.
PATIENCE = 60


class CallbackServer(ThreadingHTTPServer):
    """One that takes bursts, has its port for itself, and does not mind a sender that goes away."""

    #: Callbacks may come in a burst, which a short queue would turn away.
    request_queue_size = 256
    # A port is one receiver's alone.
    allow_reuse_port = False

    def server_bind(self) -> None:
        # HTTPServer's own would ask for the name of this machine, which may take long.
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that goes away in the middle is no fault of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class CallbackHandler(ABC, BaseHTTPRequestHandler):
    """Reads one callback after another, and refuses what is none: another method, or no length, or one over the limit.

    It may listen on every address of the machine, so nothing that comes is trusted.
    """

    timeout = PATIENCE
    body_limit = BODY_LIMIT

    @abstractmethod
    def take(self, headers: Mapping[str, str], body: bytes) -> None:
        """Answer a callback, or do not; the names of the headers are in lower case."""

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self._refuse(411)
            return
        # Python refuses to read numbers of thousands of digits.
        if len(length) > 18 or int(length) > self.body_limit:
            self._refuse(413)
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return
        self.take({name.lower(): value for name, value in self.headers.items()}, body)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        if status == 405:
            self.send_header("Allow", "POST")
        self.send_header("Content-Length", "0")
        # The body, if there is one, is not read.
        self.send_header("Connection", "close")
        self.end_headers()

    def _refuse_method(self) -> None:
        self._refuse(405)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse_method

    def log_message(self, *_: Any) -> None:
        """Be quiet: the callbacks are all there is to say."""
