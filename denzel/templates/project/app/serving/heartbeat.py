"""Heartbeat of a child of the supervisor: bytes in a pipe, written by the loop that matters."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from contextlib import suppress

#: The environment variable with the writing end of the pipe.
HEARTBEAT_FD = "HEARTBEAT_FD"

#: The environment variable with the supervisor's process id: a child that asks for its parent's may be too late.
SUPERVISOR_PID = "SUPERVISOR_PID"

#: The environment variable of a start after a death in `load_model`: its exit code, below 0 for a signal.
LOAD_ENDED = "LOAD_ENDED"

#: Seconds between two beats, about.
BEAT_INTERVAL = 1.0

#: A beat; the beginning of a load, in which none can be expected; and its end.
BEAT, LOADING, LOADED = b".", b"L", b"R"


class Heartbeat:
    """Writes to the supervisor's pipe. It neither waits nor raises: the pipe may be full, broken or not there."""

    def __init__(self, pipe: int | None) -> None:
        """`pipe` is the writing end, which is from now on non-blocking and not inherited; None for no supervisor."""
        self._pipe = pipe
        if pipe is not None:
            os.set_blocking(pipe, False)
            os.set_inheritable(pipe, False)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Heartbeat:
        """The heartbeat that the supervisor expects. Removes the variable: programs started here have no pipe."""
        pipe = environ.pop(HEARTBEAT_FD, "")
        return cls(int(pipe) if pipe else None)

    def beat(self) -> None:
        """Write a beat: the loop goes on."""
        self._write(BEAT)

    def loading(self) -> None:
        """Announce that a load begins, which may let no beat through: until `loaded`, the supervisor expects none, and
        renews the worker's report in Redis.
        """
        self._write(LOADING)

    def loaded(self) -> None:
        """Announce the end of the load: from now on beats are expected again."""
        self._write(LOADED)

    def _write(self, what: bytes) -> None:
        if self._pipe is not None:
            # The pipe is full while the supervisor is stopped, and broken when it has died.
            with suppress(OSError):
                os.write(self._pipe, what)
