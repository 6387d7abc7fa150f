"""HTTP requests that end in time, whatever the other side does."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

from requests import Session
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection


class _Deadline:
    """A connection that is cut when twice its time-out has passed since it was made.

    The time-out of requests and urllib3 is one of silence: a receiver that sends a byte now and then never meets it.
    """

    sock: socket.socket | None
    timeout: Any
    _cutting: threading.Timer | None = None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._cutting = threading.Timer(2 * self.timeout, self._cut)
        self._cutting.daemon = True
        self._cutting.start()

    def close(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
        super().close()  # type: ignore[misc]

    def _cut(self) -> None:
        if self.sock is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


class _Plain(_Deadline, HTTPConnection):
    """An http connection that ends in time."""


class _Secure(_Deadline, HTTPSConnection):
    """An https connection that ends in time."""


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}


def session() -> Session:
    """A session in which a request with a `timeout` fails after that much silence, and is over after three times that.

    Nothing is read from the environment: neither proxies nor credentials.
    """
    made = Session()
    made.trust_env = False
    for scheme in ("http://", "https://"):
        made.mount(scheme, _Adapter())
    return made
