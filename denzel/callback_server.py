"""The HTTP server under whatever receives callbacks."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any


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
