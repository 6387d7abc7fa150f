"""HTTP/1.1 protocol of the api: uvicorn's, with limits on what clients send, and errors in the api's shape.

The one module that uses uvicorn's private names; read at uvicorn 0.54.0.
"""

from __future__ import annotations

import asyncio
import weakref
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.serving.api.http.transport import CoalescingTransport, LingeringClose
from app.serving.api.problems import problem
from app.serving.api.scope import ABORT, END, ON_SHUTDOWN

#: Seconds without input in the middle of a request after which it is given up.
READ_TIMEOUT = 20

#: Bytes of an address and of one header field, and the number of fields: gunicorn's defaults for `limit_request_line`,
#: `limit_request_field_size` and `limit_request_fields`.
MAX_URL = 4094
MAX_FIELD_SIZE = 8190
MAX_FIELDS = 100

#: Bytes of the whole header section while it is incomplete.
MAX_HEADER_SECTION = 32 * 1024


def error_response(status: int, description: str) -> bytes:
    """The response to a request that is too malformed to reach the application."""
    phrase = HTTPStatus(status).phrase
    body = problem(status, phrase, description).encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin1") + body


class RequestRejected(Exception):
    """A request that breaks a limit or is not supported; raised through the parser, which then stops."""


def answer_before_body(app: Any) -> Any:
    """Wrap an application so that it gets the request before the body, for which Falcon always waits first."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        events = [{"type": "http.request", "body": b"", "more_body": True}]

        async def receive_next() -> Any:
            return events.pop() if events else await receive()

        await app(scope, receive_next, send)

    return serve


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which alone takes headers of any length, waits forever, and answers errors in plain text."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection = CoalescingTransport(transport, self.loop, self._close)
        # Not the transport itself: it leads back to the request, in a circle.
        connection = weakref.ref(self._connection)
        self._abort = lambda: (open_one := connection()) and open_one.abort()
        super().connection_made(self._connection)  # type: ignore[arg-type]
        self._answered: Any = {}
        self._in_head = self._in_request = False
        self._head_length = 0
        self._rejection: tuple[int, str] | None = None
        self._lingering: LingeringClose | None = None
        self._last_read = self.loop.time()
        self._read_timer: asyncio.TimerHandle | None = self.loop.call_later(READ_TIMEOUT, self._check_read_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
        self._stop_discarding()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._last_read = self.loop.time()
        if self._lingering is not None:
            self._lingering.discard(data)
            if self.transport.is_closing():
                return
        if self._in_head:
            self._head_length += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._in_head and self._head_length > MAX_HEADER_SECTION and not self.transport.is_closing():
            self._rejection = (431, f"The headers may have {MAX_HEADER_SECTION} bytes at most.")
            self.send_400_response("")

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its `Upgrade` header, such as Java's clients send for HTTP/2.

        The parser would treat its body as data of the other protocol.
        """
        headers = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        head = b"%s %s HTTP/1.1\r\n%s\r\n" % (self.parser.get_method(), self.url, b"".join(headers))
        self.parser = httptools.HttpRequestParser(self)
        self._feed(head + rest)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Handle the end of the input; the client may still read, so a request in progress is answered first."""
        if self._in_request:
            self.send_400_response("The request ended early.")
        elif self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            # Whoever follows a task and closes is gone: only the second write from here on would show that.
            self._call(END)
            return True
        else:
            # A response may be written, and not sent yet.
            self._connection.close_now()
        return False

    def _check_read_timeout(self) -> None:
        idle = self.loop.time() - self._last_read
        if idle < READ_TIMEOUT:
            self._read_timer = self.loop.call_later(READ_TIMEOUT - idle, self._check_read_timeout)
            return
        self._read_timer = None
        if self._in_request:
            self.send_400_response(f"Nothing more of the request came for {READ_TIMEOUT} seconds.")
            self._connection.close_now()
        elif self.cycle is None:
            self.transport.close()

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_request = True
        self._head_length = 0
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(READ_TIMEOUT, self._check_read_timeout)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL:
            self._reject(414, f"The address may have {MAX_URL} bytes at most.")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(name) + len(value) > MAX_FIELD_SIZE:
            self._reject(431, f"A header may have {MAX_FIELD_SIZE} bytes at most.")
        if len(self.headers) > MAX_FIELDS:
            self._reject(431, f"A request may have {MAX_FIELDS} headers at most.")
        if self.headers[-1][0] == b"transfer-encoding" and value.lower() != b"chunked":
            self._reject(501, "The only supported transfer coding is chunked.")

    def on_headers_complete(self) -> None:
        # HTTP/0.9 has no version in its requests, and no status in its responses.
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            self._reject(400, "The version of HTTP must be 1.0 or 1.1.")
        if not self._is_upgrade():
            super().on_headers_complete()
        self._in_head = False

    def shutdown(self) -> None:
        """Close the connection as soon as it has no request, and end what would go on for long."""
        super().shutdown()
        self._call(END)
        self._call(ON_SHUTDOWN)

    def _call(self, member: str) -> None:
        """Call the function in this member of the request's scope, if there is one."""
        if function := self._answered.get(member):
            function()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        cycle.scope[ABORT] = self._abort
        # Not that of `self.cycle`, which may wait behind it.
        self._answered = cycle.scope
        # With `Expect: 100-continue`, errors that do not depend on the body, such as its length, are answered first.
        super()._start_asgi_task(cycle, answer_before_body(app) if cycle.waiting_for_100_continue else app)

    def on_body(self, body: bytes) -> None:
        if not self._is_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_upgrade():
            return
        self._in_request = False
        self._stop_discarding()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_answered_early() and not self.transport.is_closing():
            if self.expect_100_continue:
                # The client may skip the body, and its next request would then be parsed as the body.
                self.transport.close()
            else:
                self._discard_rest()

    def _is_upgrade(self) -> bool:
        upgrade: bool = self.parser.should_upgrade()
        return upgrade and self.parser.get_method() != b"CONNECT"

    def _reject(self, status: int, description: str) -> None:
        self._rejection = (status, description)
        raise RequestRejected(description)

    def send_400_response(self, msg: str) -> None:
        """Answer in JSON, unless a response has begun, and close the connection."""
        status, description = self._rejection or (400, msg)
        if not self._is_answered_early() and (
            self.cycle is None or self.cycle.response_complete or not self.cycle.response_started
        ):
            self.transport.write(error_response(status, description))
        self._in_head = self._in_request = False
        self._half_close()

    # Closing a connection while input arrives resets it, and the client loses the response that it has not read yet.

    def _is_answered_early(self) -> bool:
        """True when the response is complete while the client still sends the request."""
        return self._in_request and not self._in_head and self.cycle is not None and self.cycle.response_complete

    def _close(self) -> None:
        if self._is_answered_early() and not self.transport.is_closing():
            self._half_close()
        else:
            self._connection.close_now()

    def _half_close(self) -> None:
        self._connection.half_close()
        self._discard_rest()
        self.flow.resume_reading()

    def _discard_rest(self) -> None:
        if self._lingering is None:
            self._lingering = LingeringClose(self.loop, self._connection.close_now)

    def _stop_discarding(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
