"""What a denzel command is doing to a project at this moment, for the commands of other terminals to see."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from denzel.errors import NotPermitted, ProjectLocked
from denzel.services import State

Announce = Callable[[State | None], None]


@contextmanager
def exclusive(path: Path) -> Iterator[Announce]:
    """Hold the project for one changing command; raises Busy while another one does.

    Gives a function that announces a state. The system drops the lock when this process ends, however it ends, so what
    is read is never the trace of a command that died.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        file = path.open("a+")
    except PermissionError:
        raise NotPermitted(
            f"{path} cannot be written: the project belongs to another user.",
            hint=f"Run denzel as that user, or make the project yours: sudo chown -R $USER {path.parents[1]}",
        ) from None
    with file:
        _lock(file)

        def announce(state: State | None) -> None:
            file.seek(0)
            file.truncate()
            file.write(state.name if state else "")
            file.flush()

        announce(None)
        yield announce
        announce(None)


def announced(path: Path) -> State | None:
    """The state that a running command has announced, if any."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return State[text] if text else None
    except OSError:
        pass
    return None


def _lock(file: IO[str]) -> None:
    # Whoever reads an announcement holds the lock for an instant; only who changes the project holds it longer.
    deadline = time.monotonic() + 1
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ProjectLocked(
                    "Another denzel command is changing this project.",
                    hint="Wait for it to end: denzel status --live",
                ) from None
            time.sleep(0.05)
        else:
            return
