"""HTTP/1.1 exchange over one keep-alive connection: a POST, its response, and the deadlines of both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

#: Bytes of a response that are read, head and body, and seconds that its body may take, so that its connection can be
#: reused.
RESPONSE_LIMIT = 64 * 1024
RESPONSE_TIMEOUT = 1.0


class BadResponse(OSError):
    """The endpoint's response is no HTTP, or its head is too long."""


@dataclass(frozen=True)
class Response:
    """An endpoint's response: its status, and its header `Retry-After`."""

    status: int
    retry_after: str | None


class Connection(asyncio.Protocol):
    """A connection to an endpoint, for one exchange after another."""

    _transport: asyncio.Transport

    def __init__(self, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._parser = HttpResponseParser(self)
        self._waiter: asyncio.Future[Response] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begin()

    @property
    def is_idle(self) -> bool:
        """True when the connection can be used for the next exchange."""
        return self._waiter is None and not self._transport.is_closing()

    def exchange(self, request: Iterable[bytes]) -> asyncio.Future[Response]:
        """Send a request and read its response. It ends within twice the time-out, and after one without progress.

        The future raises OSError when there is no response; cancel it with `abort`.
        """
        self._begin()
        self._waiter = self._loop.create_future()
        self._set_timer(self._active_at + self._timeout)
        self._transport.writelines(request)
        return self._waiter

    def abort(self) -> None:
        """Close the connection at once, whatever was not sent yet."""
        self._waiter = None
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()

    def _begin(self) -> None:
        self._response: Response | None = None
        self._retry_after: str | None = None
        #: Bytes of the response that have arrived.
        self.received = 0
        self._is_complete = self._is_reusable = False
        self._active_at = self._loop.time()
        self._ends = self._active_at + 2 * self._timeout

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._check_time)

    def _check_time(self) -> None:
        now, silent_until = self._loop.time(), self._active_at + self._timeout
        if now >= self._ends:
            self._end(TimeoutError(f"no whole answer within {2 * self._timeout:g} s"))
        elif now >= silent_until:
            self._end(TimeoutError(f"no answer within {self._timeout:g} s"))
        else:
            self._set_timer(min(silent_until, self._ends))

    def _end(self, failure: OSError) -> None:
        """End the exchange: as a failure, unless the head of a response has arrived, even if the rest broke off."""
        waiter, self._waiter = self._waiter, None
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_reusable:
            self._transport.abort()
        if waiter is not None and not waiter.done():
            if self._response is not None:
                waiter.set_result(self._response)
            else:
                waiter.set_exception(failure)

    # Events of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # So that resume_writing means that all is sent.
        self._transport.set_write_buffer_limits(0)

    def resume_writing(self) -> None:
        self._active_at = self._loop.time()

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiter is not None:
            self._is_reusable = False
            lost = ConnectionResetError("the endpoint closed the connection without a response")
            self._end(error if isinstance(error, ConnectionError) else lost)

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:
            # No request asked for it.
            self._transport.abort()
            return
        self._active_at = self._loop.time()
        self.received += len(data)
        failure = f"no end within {RESPONSE_LIMIT} bytes" if self.received > RESPONSE_LIMIT else ""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._is_reusable = False
            failure = f"another form than HTTP/1.1: {error}"
        if self._is_complete or failure:
            self._end(BadResponse(f"the response has {failure}"))
        elif self._response is not None and self._ends > self._active_at + RESPONSE_TIMEOUT:
            self._ends = self._active_at + RESPONSE_TIMEOUT
            self._set_timer(self._ends)

    # Events of the parser

    def on_message_begin(self) -> None:
        # Another message than the response belongs to no request.
        self._is_reusable = self._is_reusable and not self._is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._retry_after is None and name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._response is None and (status >= 200 or status == 101):
            self._response = Response(status, self._retry_after)
        # After an interim response (100 to 199) the next one follows.
        self._retry_after = None

    def on_message_complete(self) -> None:
        if self._response is not None and not self._is_complete:
            self._is_complete = True
            # An endpoint may respond before it has read the body.
            self._is_reusable = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()
