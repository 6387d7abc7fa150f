"""HTTP connection pool for callbacks: keep-alive connections, made to addresses that the egress policy has checked."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from urllib.parse import quote, unquote, urlsplit

import certifi

from app.serving.callback_uri import port_of
from app.serving.callbacks.egress import EgressPolicy
from app.serving.callbacks.exchange import Connection, Response

#: Seconds for which an idle connection is kept.
KEEP_ALIVE = 15.0

#: Bytes up to which a body is sent in one piece with its head.
ONE_PIECE = 16 * 1024

#: Threads that look up hosts, made as they are needed: as many as callbacks in flight, so that none waits for a look-up
#: that hangs but those that need it.
MAX_LOOKUPS = 512

#: Characters of a request's target that are sent as they are; all that a URI may not contain is escaped.
_SAFE = "!#$%&'()*+,/:;=?@[]~"


@dataclass(frozen=True)
class _Origin:
    """The origin of a URI (RFC 9110): connections to the same one are interchangeable."""

    scheme: str
    host: str
    port: int


class ConnectionPool:
    """Keep-alive connections for POSTs to endpoints that the policy permits, on one event loop.

    Nothing is read from the environment: neither proxies nor credentials. Redirects are not followed.
    """

    def __init__(self, policy: EgressPolicy, *, timeout: float) -> None:
        self._policy = policy
        self._timeout = timeout
        self._idle: defaultdict[_Origin, list[tuple[Connection, float]]] = defaultdict(list)
        self._resolvers = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="look-up")

    async def post(self, uri: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Send one POST. It ends within three times the time-out after the look-up of its host.

        Raises addresses.EgressDenied when the policy permits no address, and OSError when there is no response.
        """
        origin, opening = _opening(uri)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if lines.count("\n") > len(headers):
            raise ValueError("a header has a line break")
        head = f"{opening}Content-Length: {len(body)}\r\n{lines}\r\n".encode()
        request = [head + body] if len(body) <= ONE_PIECE else [head, body]
        connection = self._take_idle(origin)
        if connection is not None:
            try:
                return await self._exchange(origin, connection, request)
            except ConnectionError:
                # The endpoint may have closed an idle connection at this very moment.
                if connection.received:
                    raise
        return await self._exchange(origin, await self._connect(origin), request)

    def close_idle(self, unused_for: float = KEEP_ALIVE) -> None:
        """Close the connections that have been idle for so many seconds."""
        until = asyncio.get_running_loop().time() - unused_for
        for origin, idle in list(self._idle.items()):
            for connection, since in idle:
                if since <= until:
                    connection.abort()
            idle[:] = [one for one in idle if one[0].is_idle]
            if not idle:
                del self._idle[origin]

    async def _exchange(self, origin: _Origin, connection: Connection, request: list[bytes]) -> Response:
        try:
            response = await connection.exchange(request)
        except BaseException:
            connection.abort()
            raise
        if connection.is_idle:
            self._idle[origin].append((connection, asyncio.get_running_loop().time()))
        return response

    def _take_idle(self, origin: _Origin) -> Connection | None:
        idle, until = self._idle[origin], asyncio.get_running_loop().time() - KEEP_ALIVE
        while idle:
            connection, since = idle.pop()
            if connection.is_idle and since > until:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: _Origin) -> Connection:
        """A connection to one of the addresses that were looked up and permitted just now."""
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(self._resolvers, self._policy.addresses, origin.host, origin.port)
        ends = loop.time() + self._timeout
        failure: OSError | None = None
        for tried, address in enumerate(addresses):
            share = (ends - loop.time()) / (len(addresses) - tried)
            try:
                async with asyncio.timeout(max(share, 0.01)):
                    _, connection = await loop.create_connection(
                        lambda: Connection(self._timeout),
                        address,
                        origin.port,
                        # The certificate must match the name, whatever the address.
                        ssl=self._tls if origin.scheme == "https" else None,
                        server_hostname=origin.host.rstrip(".") if origin.scheme == "https" else None,
                    )
                    return connection
            except TimeoutError:
                failure = failure or TimeoutError(f"no answer within {self._timeout:g} s")
            except OSError as error:
                failure = failure or error
        raise failure or OSError(f"{origin.host} has no address")

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """A context that trusts the certificates of this machine and those of certifi, as requests does."""
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
        return context


@lru_cache(1024)
def _opening(uri: str) -> tuple[_Origin, str]:
    """The origin of a URI, and the lines of a request's head that are the same for each POST to it."""
    parts = urlsplit(uri)
    origin = _Origin(parts.scheme, parts.hostname or "", port_of(uri))
    target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=_SAFE)
    host = origin.host.partition("%")[0]
    host = f"[{host}]" if ":" in host else host
    if origin.port != (443 if origin.scheme == "https" else 80):
        host += f":{origin.port}"
    lines = [f"POST {target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity"]
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append("Authorization: Basic " + base64.b64encode(pair.encode()).decode())
    if not all(line.isascii() and line.isprintable() for line in lines):
        raise OSError(f"{origin.host} is no host name")
    return origin, "\r\n".join([*lines, ""])
