"""Ports for tests."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

#: Below those that the system gives to outgoing connections: a service that is started again finds its port free.
_FIRST, _LAST = 15000, 32000

_COUNTER = Path(tempfile.gettempdir()) / f"denzel-tests-port-{os.getuid()}"


def find_free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago. Other runs of this user are given others."""
    with _COUNTER.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        port = int(file.read() or random.randrange(_FIRST, _LAST))
        while True:
            port = port + 1 if port < _LAST else _FIRST
            if _is_free(port):
                break
        file.truncate(0)
        file.write(str(port))
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As services bind it: connections that have ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
