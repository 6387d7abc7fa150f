"""Deferral of signals while a command changes what runs, and a record that outlives a command killed meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

#: What ends a command: Ctrl-C, a closed terminal, a machine that shuts down.
_ENDING = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


@contextmanager
def uninterrupted(record: Path, command: str, on_signal: Callable[[], None]) -> Iterator[None]:
    """Run a block to its end whatever signal comes meanwhile, of which the first takes effect afterwards.

    `on_signal` is called when it comes. While the block runs, and for ever when it is killed, `record` holds the name
    of the command.
    """
    with _deferred(on_signal):
        # On a full disk, too, services can be stopped.
        with suppress(OSError):
            record.write_text(command, encoding="utf-8")
        try:
            yield
        finally:
            with suppress(OSError):
                record.unlink(missing_ok=True)


def interrupted_command(record: Path) -> str | None:
    """The name of the command that was killed; None without one. To be called under the project's lock."""
    try:
        return record.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


@contextmanager
def _deferred(on_signal: Callable[[], None]) -> Iterator[None]:
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            on_signal()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What the user has set to be ignored, as nohup does, is left so.
    before = {number: signal.getsignal(number) for number in _ENDING}
    handled = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in handled:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
