"""How gunicorn serves the api: uvicorn's worker, with bounds for what clients send, and errors in the api's shape."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.serving.api.http.transport import CoalescingTransport, LingeringClose
from app.serving.api.problems import problem

#: Seconds that a client may be silent in the middle of a request.
READ_TIMEOUT = 20

#: Bytes that an address may have, one header, and all of them while they are incomplete; and how many headers.
MAX_URL = 4094
MAX_HEADER = 8190
MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 100


def error_answer(status: int, description: str) -> bytes:
    """The answer to a request that is not HTTP enough to reach the application."""
    phrase = HTTPStatus(status).phrase
    body = problem(status, phrase, description).encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin1") + body


class BoundExceeded(Exception):
    """What a client sends breaks a bound; raised through the parser, which then stops."""


def answer_before_body(app: Any) -> Any:
    """An application that is told of the request before its body; Falcon asks for that first, whatever it answers."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        events = [{"type": "http.request", "body": b"", "more_body": True}]

        async def receive_next() -> Any:
            return events.pop() if events else await receive()

        await app(scope, receive_next, send)

    return serve


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP, which by itself takes headers of any length, waits for ever, and answers errors in plain text."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection = CoalescingTransport(transport, self.loop, self._close)
        super().connection_made(self._connection)  # type: ignore[arg-type]
        self._in_head = self._in_request = False
        self._head_length = 0
        self._refusal: tuple[int, str] | None = None
        self._leftovers: LingeringClose | None = None
        self._heard = self.loop.time()
        self._silence: asyncio.TimerHandle | None = self.loop.call_later(READ_TIMEOUT, self._listen_for_silence)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._end_leftovers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        if self._leftovers is not None:
            self._leftovers.drop(data)
            if self.transport.is_closing():
                return
        if self._in_head:
            self._head_length += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._in_head and self._head_length > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._refusal = (431, f"The headers may have {MAX_HEADER_BYTES} bytes at most.")
            self.send_400_response("")

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay_with_http(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _stay_with_http(self, rest: bytes) -> None:
        """Read the request once more without its wish for another protocol, such as Java's clients have for HTTP/2.

        The parser would take its body for the other protocol's.
        """
        headers = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        head = b"%s %s HTTP/1.1\r\n%s\r\n" % (self.parser.get_method(), self.url, b"".join(headers))
        self.parser = httptools.HttpRequestParser(self)
        self._feed(head + rest)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has sent all it will; it may still read, so what is under way is answered first."""
        if self._in_request:
            self.send_400_response("The request ended early.")
        elif self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return True
        else:
            # An answer may be written, and not sent yet.
            self._connection.cut()
        return False

    def _listen_for_silence(self) -> None:
        silent = self.loop.time() - self._heard
        if silent < READ_TIMEOUT:
            self._silence = self.loop.call_later(READ_TIMEOUT - silent, self._listen_for_silence)
            return
        self._silence = None
        if self._in_request:
            self.send_400_response(f"The request did not go on for {READ_TIMEOUT} seconds.")
            self._connection.cut()
        elif self.cycle is None:
            self.transport.close()

    # What the parser calls.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_request = True
        self._head_length = 0
        if self._silence is None:
            self._silence = self.loop.call_later(READ_TIMEOUT, self._listen_for_silence)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL:
            self._refuse(414, f"The address may have {MAX_URL} bytes at most.")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(name) + len(value) > MAX_HEADER:
            self._refuse(431, f"A header may have {MAX_HEADER} bytes at most.")
        if len(self.headers) > MAX_HEADERS:
            self._refuse(431, f"A request may have {MAX_HEADERS} headers at most.")
        if self.headers[-1][0] == b"transfer-encoding" and value.lower() != b"chunked":
            self._refuse(501, "Of transfer codings, only chunked is known.")

    def on_headers_complete(self) -> None:
        # HTTP/0.9 has no version, and its answers no status.
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            self._refuse(400, "The version of HTTP must be 1.0 or 1.1.")
        if not self._is_upgrade():
            super().on_headers_complete()
        self._in_head = False

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        # Who asks whether to send a body is answered by what needs none, such as its length.
        super()._start_asgi_task(cycle, answer_before_body(app) if cycle.waiting_for_100_continue else app)

    def on_body(self, body: bytes) -> None:
        if not self._is_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_upgrade():
            return
        self._in_request = False
        self._end_leftovers()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_answered_early() and not self.transport.is_closing():
            if self.expect_100_continue:
                # It may never send the body, for which its next request would then be taken.
                self.transport.close()
            else:
                self._drop_leftovers()

    def _is_upgrade(self) -> bool:
        upgrade: bool = self.parser.should_upgrade()
        return upgrade and self.parser.get_method() != b"CONNECT"

    def _refuse(self, status: int, description: str) -> None:
        self._refusal = (status, description)
        raise BoundExceeded(description)

    def send_400_response(self, msg: str) -> None:
        """Answer in JSON, unless an answer has begun, and hang up."""
        status, description = self._refusal or (400, msg)
        if not self._is_answered_early() and (
            self.cycle is None or self.cycle.response_complete or not self.cycle.response_started
        ):
            self.transport.write(error_answer(status, description))
        self._in_head = self._in_request = False
        self._end_and_drop_leftovers()

    # A connection that is closed while bytes come in is reset, and the client loses the answer that it has not read.

    def _is_answered_early(self) -> bool:
        """Whether the client has its answer already, and still sends the request."""
        return self._in_request and not self._in_head and self.cycle is not None and self.cycle.response_complete

    def _close(self) -> None:
        if self._is_answered_early() and not self.transport.is_closing():
            self._end_and_drop_leftovers()
        else:
            self._connection.cut()

    def _end_and_drop_leftovers(self) -> None:
        self._connection.end()
        self._drop_leftovers()
        self.flow.resume_reading()

    def _drop_leftovers(self) -> None:
        if self._leftovers is None:
            self._leftovers = LingeringClose(self.loop, self._connection.cut)

    def _end_leftovers(self) -> None:
        if self._leftovers is not None:
            self._leftovers.end()
            self._leftovers = None
