"""HTTP server for callback endpoints: the base of `denzel listen` and of the drill's receiver."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

#: Limit of a callback's body in bytes.
BODY_LIMIT = 64 * 2**20

#: Seconds to wait for more of a request.
READ_TIMEOUT = 60


class CallbackServer(ThreadingHTTPServer):
    """A threading server that accepts bursts, shares its port with no other, and ignores connections that break."""

    #: Callbacks come in bursts; the default backlog of 5 would refuse many of them.
    request_queue_size = 256
    allow_reuse_port = False

    def server_bind(self) -> None:
        # HTTPServer's own looks up this machine's name, which may take long.
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a sender that breaks the connection."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class CallbackHandler(ABC, BaseHTTPRequestHandler):
    """Reads callbacks, and refuses other methods (405), bodies without a length (411) or over `body_limit` bytes (413).

    It may listen on every address of the machine, so no input is trusted.
    """

    timeout = READ_TIMEOUT
    body_limit = BODY_LIMIT

    @abstractmethod
    def take(self, headers: Mapping[str, str], body: bytes) -> None:
        """Handle a callback, with or without an answer; the names of the headers are in lower case."""

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
        # A body, if any, is not read.
        self.send_header("Connection", "close")
        self.end_headers()

    def _refuse_method(self) -> None:
        self._refuse(405)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse_method

    def log_message(self, *_: Any) -> None:
        """Log nothing."""
