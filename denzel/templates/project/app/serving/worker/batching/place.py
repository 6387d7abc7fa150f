"""Place at the head of the queue: one process at a time waits there and takes what comes, so that batches form.

The place is a lock on a file (flock), which the kernel ends with the last copy of its descriptor. Each process has a
descriptor of its own, of which the worker keeps a copy: it can give the place of a process that is held up to the next.
"""

from __future__ import annotations

import fcntl
import os
import tempfile


class Place:
    """The place as one process sees it, and the worker that made it. Make it before the fork."""

    def __init__(self, file: int) -> None:
        self._file = file

    def acquire(self) -> None:
        """Take the place, and wait for it as long as another process has it; done at once where this one has it."""
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def try_acquire(self) -> bool:
        """Take the place unless another process has it; True for the process that has it now."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give the place to the next process; without effect for a process that does not have it."""
        fcntl.flock(self._file, fcntl.LOCK_UN)


def make_places(number: int) -> list[Place]:
    """The one place at the head of a queue, for so many processes."""
    with tempfile.NamedTemporaryFile(prefix="denzel-queue-") as file:
        return [Place(os.open(file.name, os.O_RDWR | os.O_CLOEXEC)) for _ in range(number)]
