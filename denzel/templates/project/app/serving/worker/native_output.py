"""Output of native code, and of programs that the pipeline starts: a pipe from the process' file descriptors 1 and 2 to
the worker, which logs each line with the ids of the tasks that the process runs.

What Python prints goes to the log directly. The worker reads, and not a thread of the process: native code may hold
Python's lock while it writes, and the last words of a process that crashes are read after its death.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from app.serving.logs.current import at_end
from app.serving.logs.stream import LineStream

log = logging.getLogger(__name__)

#: Seconds that the end of a task waits at most for the worker to read what the task has written, so that it is logged
#: with its id; and between two checks of that.
MAX_WAIT, CHECK_INTERVAL = 0.5, 0.001

_READ_SIZE = 1 << 16


class NativeOutput:
    """The pipe of one process. It is made before the fork; then the process writes, and its worker reads."""

    def __init__(self, process: str, running: Callable[[], Sequence[str]]) -> None:
        """`process` is its name in the log, `running` are the tasks that it runs."""
        self._process = process
        self._running = running
        self._ids: tuple[str, ...] = ()
        self._output, self._input = os.pipe()
        self._unread = bytearray(4)

    def write(self) -> None:
        """In the process: let 1 and 2 lead to the pipe."""
        for descriptor in (1, 2):
            os.dup2(self._input, descriptor)
        os.close(self._output)
        at_end(self._wait_until_read)

    def read(self) -> None:
        """In the worker: log what comes, in a thread, until all that could write has ended."""
        os.close(self._input)
        threading.Thread(target=self._read, name=f"output of {self._process}", daemon=True).start()

    def _read(self) -> None:
        stream = LineStream(self._output, self._log)
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        while True:
            poll.poll()
            # First: once it is read, the process may go on to its next task.
            self._ids = tuple(self._running())
            data = os.read(self._output, _READ_SIZE)
            if not data:
                break
            stream.buffer.write(data)
        stream.end_line()
        os.close(self._output)

    def _wait_until_read(self) -> None:
        # The pipeline may have closed it.
        with suppress(OSError):
            for _ in range(int(MAX_WAIT / CHECK_INTERVAL)):
                fcntl.ioctl(self._input, termios.FIONREAD, self._unread)
                if not any(self._unread):
                    return
                time.sleep(CHECK_INTERVAL)

    def _log(self, line: str) -> None:
        record = log.makeRecord(log.name, logging.INFO, "", 0, line, (), None)
        record.processName, record.denzel_ids = self._process, self._ids
        log.handle(record)


def keep_own_output() -> None:
    """Let Python's own output go to another descriptor than 2, from which forked processes turn away."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    # To which Celery logs.
    setattr(sys, "__stderr__", sys.stderr)  # noqa: B010  final for mypy
