"""The lock of a project, held by one changing command at a time, and the state it publishes for other terminals."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from denzel.errors import NotPermitted, ProjectLocked
from denzel.services import State

StateSetter = Callable[[State | None], None]


@contextmanager
def exclusive(path: Path) -> Iterator[StateSetter]:
    """Hold the project for one changing command; raises ProjectLocked while another one does, and NotPermitted.

    Yields a function that publishes a state, None for none. The kernel drops the lock when this process ends, however
    it ends, so a command that died leaves no state behind.
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

        def set_state(state: State | None) -> None:
            file.seek(0)
            file.truncate()
            file.write(state.name if state else "")
            file.flush()

        set_state(None)
        yield set_state
        set_state(None)


def read_state(path: Path) -> State | None:
    """The state that a running command has published; None without one."""
    if not is_held(path):
        return None
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return State[text] if text else None


def is_held(path: Path) -> bool:
    """True while a command changes the project."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _lock(file: IO[str]) -> None:
    # A reader of the state holds the lock for an instant; only a changing command holds it longer.
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
