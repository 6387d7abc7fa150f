"""POSTs to receivers: over connections that are kept, made to an address that was checked."""

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

#: Bytes of an answer that are read, and seconds that this may take, so that its connection can be used once more.
RESPONSE_LIMIT = 64 * 1024
RESPONSE_TIMEOUT = 1.0

#: Seconds for which a connection is kept that nobody uses.
KEEP_ALIVE = 15.0

#: What stays as it is in the target of a request; what a URI may not hold is escaped.
_SAFE = "!#$%&'()*+,/:;=?@[]~"


@dataclass(frozen=True)
class Response:
    """What a receiver answered: its status, and its header `Retry-After`."""

    status: int
    retry_after: str | None


@dataclass(frozen=True)
class _Server:
    """Who answers at an address: connections to the same one can be used in turn."""

    scheme: str
    host: str
    port: int


class _Connection(HTTPConnection):
    """A connection over a socket that `dial` makes, with TLS or without."""

    def __init__(self, server: _Server, dial: Callable[[_Server], socket.socket]) -> None:
        super().__init__(server.host, server.port)
        # The header Host names a port that is not the scheme's own.
        self.default_port = 443 if server.scheme == "https" else 80
        self._server = server
        self._dial = dial

    def connect(self) -> None:
        self.sock = self._dial(self._server)


class ConnectionPool:
    """Sends POSTs to receivers that the policy permits. It may be used by any number of threads.

    Nothing is read from the environment: neither proxies nor credentials. Redirects are not followed.
    """

    def __init__(self, policy: EgressPolicy, *, timeout: float) -> None:
        self._policy = policy
        self._timeout = timeout
        self._deadlines = Deadlines()
        self._lock = threading.Lock()
        self._idle: defaultdict[_Server, list[tuple[_Connection, float]]] = defaultdict(list)

    def post(self, uri: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """One POST, over after three times the time-out, and after one of silence.

        Raises addresses.Refused when nothing may be sent there, and OSError or http.client.HTTPException when there is
        no answer.
        """
        parts = urlsplit(uri)
        server = _Server(parts.scheme, parts.hostname or "", port_of(uri))
        target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=_SAFE)
        headers = {**headers, **_credentials(parts.username, parts.password)}
        while True:
            connection = self._take_idle(server)
            is_new = connection is None
            connection = connection or _Connection(server, self._dial)
            try:
                return self._exchange(server, connection, target, body, headers)
            except ConnectionError:
                # A connection that was kept may have been closed by the receiver at this very moment.
                if is_new:
                    raise

    def close_idle(self, unused_for: float = KEEP_ALIVE) -> None:
        """Close the connections that nobody has used for so many seconds."""
        until = time.monotonic() - unused_for
        with self._lock:
            for server, kept in list(self._idle.items()):
                for connection, since in kept:
                    if since <= until:
                        connection.close()
                kept[:] = [one for one in kept if one[1] > until]
                if not kept:
                    del self._idle[server]

    def _exchange(
        self, server: _Server, connection: _Connection, target: str, body: bytes, headers: Mapping[str, str]
    ) -> Response:
        try:
            if connection.sock is None:
                connection.connect()
            assert connection.sock is not None
            with self._deadlines.watch(connection.sock, 2 * self._timeout) as watch:
                # A receiver may refuse a body before it has read it, and still answers.
                with suppress(BrokenPipeError):
                    connection.request("POST", target, body=body, headers=dict(headers))
                answer = connection.getresponse()
                # Headers that were cut off look like headers that ended.
                watch.check()
                said = Response(answer.status, answer.headers.get("Retry-After"))
                watch.shorten(RESPONSE_TIMEOUT)
                reusable = _read(answer) and connection.sock is not None
        except BaseException:
            connection.close()
            raise
        if reusable and not watch.over:
            with self._lock:
                self._idle[server].append((connection, time.monotonic()))
        else:
            answer.close()
            connection.close()
        return said

    def _take_idle(self, server: _Server) -> _Connection | None:
        until = time.monotonic() - KEEP_ALIVE
        while True:
            with self._lock:
                kept = self._idle.get(server)
                if not kept:
                    return None
                connection, since = kept.pop()
            if since > until and _is_open(connection):
                return connection
            connection.close()

    def _dial(self, server: _Server) -> socket.socket:
        """A socket to one of the addresses that were looked up and permitted just now."""
        ends = time.monotonic() + self._timeout
        addresses = self._policy.addresses(server.host, server.port)
        failure: OSError | None = None
        for tried, address in enumerate(addresses):
            share = (ends - time.monotonic()) / (len(addresses) - tried)
            try:
                connected = socket.create_connection((address, server.port), max(share, 0.01))
                break
            except OSError as error:
                failure = failure or error
        else:
            raise failure or OSError(f"{server.host} has no address")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server.scheme == "https":
            # The handshake has what is left; the certificate must be the name's, whatever the address.
            connected.settimeout(max(ends - time.monotonic(), 0.01))
            try:
                connected = self._tls.wrap_socket(connected, server_hostname=server.host.rstrip("."))
            except BaseException:
                connected.close()
                raise
        connected.settimeout(self._timeout)
        return connected

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Trusts what this machine trusts, and what requests would."""
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
        return context


def _read(answer: HTTPResponse) -> bool:
    """Read an answer up to the limit: whether it ended there. It counts as it is, also when it breaks off."""
    try:
        answer.read(RESPONSE_LIMIT)
        return answer.isclosed() or not answer.read(1)
    except (OSError, HTTPException, ValueError):
        return False


def _is_open(connection: _Connection) -> bool:
    """Whether nothing came on a connection that should be silent: data there is the end, or nonsense."""
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
