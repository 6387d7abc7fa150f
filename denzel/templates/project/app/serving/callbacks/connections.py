"""HTTP connection pool for callbacks: keep-alive connections, made to addresses that the egress policy has checked."""

from __future__ import annotations

import base64
import select
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import quote, unquote, urlsplit

import certifi

from app.serving.callback_uri import port_of
from app.serving.callbacks.deadlines import Deadlines
from app.serving.callbacks.egress import EgressPolicy

#: Bytes of a response that are read, and seconds that this may take, so that its connection can be reused.
RESPONSE_LIMIT = 64 * 1024
RESPONSE_TIMEOUT = 1.0

#: Seconds for which an idle connection is kept.
KEEP_ALIVE = 15.0

#: Characters of a request's target that are sent as they are; all that a URI may not contain is escaped.
_SAFE = "!#$%&'()*+,/:;=?@[]~"


@dataclass(frozen=True)
class Response:
    """An endpoint's response: its status, and its header `Retry-After`."""

    status: int
    retry_after: str | None


@dataclass(frozen=True)
class _Origin:
    """The origin of a URI (RFC 9110): connections to the same one are interchangeable."""

    scheme: str
    host: str
    port: int


class _Connection(HTTPConnection):
    """A connection over a socket from `open_socket`, with or without TLS."""

    def __init__(self, origin: _Origin, open_socket: Callable[[_Origin], socket.socket]) -> None:
        super().__init__(origin.host, origin.port)
        # The header Host names a port that is not the scheme's default.
        self.default_port = 443 if origin.scheme == "https" else 80
        self._origin = origin
        self._open_socket = open_socket

    def connect(self) -> None:
        self.sock = self._open_socket(self._origin)


class ConnectionPool:
    """Keep-alive connections for POSTs to endpoints that the policy permits, for use by any number of threads.

    Nothing is read from the environment: neither proxies nor credentials. Redirects are not followed.
    """

    def __init__(self, policy: EgressPolicy, *, timeout: float) -> None:
        self._policy = policy
        self._timeout = timeout
        self._deadlines = Deadlines()
        self._lock = threading.Lock()
        self._idle: defaultdict[_Origin, list[tuple[_Connection, float]]] = defaultdict(list)

    def post(self, uri: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Send one POST. It ends within three times the time-out, and after one without any data.

        Raises addresses.EgressDenied when the policy permits no address, and OSError or http.client.HTTPException when
        there is no response.
        """
        parts = urlsplit(uri)
        origin = _Origin(parts.scheme, parts.hostname or "", port_of(uri))
        target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=_SAFE)
        headers = {**headers, **_credentials(parts.username, parts.password)}
        while True:
            connection = self._take_idle(origin)
            is_new = connection is None
            connection = connection or _Connection(origin, self._connect)
            try:
                return self._exchange(origin, connection, target, body, headers)
            except ConnectionError:
                # The endpoint may have closed an idle connection at this very moment.
                if is_new:
                    raise

    def close_idle(self, unused_for: float = KEEP_ALIVE) -> None:
        """Close the connections that have been idle for so many seconds."""
        until = time.monotonic() - unused_for
        with self._lock:
            for origin, idle in list(self._idle.items()):
                for connection, since in idle:
                    if since <= until:
                        connection.close()
                idle[:] = [one for one in idle if one[1] > until]
                if not idle:
                    del self._idle[origin]

    def _exchange(
        self, origin: _Origin, connection: _Connection, target: str, body: bytes, headers: Mapping[str, str]
    ) -> Response:
        try:
            if connection.sock is None:
                connection.connect()
            assert connection.sock is not None
            with self._deadlines.watch(connection.sock, 2 * self._timeout) as deadline:
                # An endpoint may reject a body before it has read it, and still responds.
                with suppress(BrokenPipeError):
                    connection.request("POST", target, body=body, headers=dict(headers))
                raw = connection.getresponse()
                # Headers that were cut off look like headers that ended.
                deadline.check()
                response = Response(raw.status, raw.headers.get("Retry-After"))
                deadline.shorten(RESPONSE_TIMEOUT)
                reusable = _read(raw) and connection.sock is not None
        except BaseException:
            connection.close()
            raise
        if reusable and not deadline.is_over:
            with self._lock:
                self._idle[origin].append((connection, time.monotonic()))
        else:
            raw.close()
            connection.close()
        return response

    def _take_idle(self, origin: _Origin) -> _Connection | None:
        until = time.monotonic() - KEEP_ALIVE
        while True:
            with self._lock:
                idle = self._idle.get(origin)
                if not idle:
                    return None
                connection, since = idle.pop()
            if since > until and _is_open(connection):
                return connection
            connection.close()

    def _connect(self, origin: _Origin) -> socket.socket:
        """A socket to one of the addresses that were looked up and permitted just now."""
        ends = time.monotonic() + self._timeout
        addresses = self._policy.addresses(origin.host, origin.port)
        failure: OSError | None = None
        for tried, address in enumerate(addresses):
            share = (ends - time.monotonic()) / (len(addresses) - tried)
            try:
                connected = socket.create_connection((address, origin.port), max(share, 0.01))
                break
            except OSError as error:
                failure = failure or error
        else:
            raise failure or OSError(f"{origin.host} has no address")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if origin.scheme == "https":
            # The handshake gets the time that is left; the certificate must match the name, whatever the address.
            connected.settimeout(max(ends - time.monotonic(), 0.01))
            try:
                connected = self._tls.wrap_socket(connected, server_hostname=origin.host.rstrip("."))
            except BaseException:
                connected.close()
                raise
        connected.settimeout(self._timeout)
        return connected

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """A context that trusts the certificates of this machine and those of certifi, as requests does."""
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
        return context


def _read(raw: HTTPResponse) -> bool:
    """Read a response up to the limit; True when it ended there. One that breaks off counts as it is."""
    try:
        raw.read(RESPONSE_LIMIT)
        return raw.isclosed() or not raw.read(1)
    except (OSError, HTTPException, ValueError):
        return False


def _is_open(connection: _Connection) -> bool:
    """True when an idle connection has no input: that would be its end, or garbage."""
    if connection.sock is None:
        return False
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return not poll.poll(0)


def _credentials(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
