"""Text stream in the place of sys.stdout or sys.stderr: each printed line becomes one line of the log.

What a thread writes is joined until the newline. A line that is drawn over, such as a progress bar, goes to a `Screen`.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from app.serving.logs.screen import CURSOR_UP, Screen

#: Characters of a line that are kept.
MAX_LINE = 10_000

# Colours, and other sequences that a terminal understands (ECMA-48, 5.4).
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def printable(text: str) -> str:
    """The text without colours, and with escapes for control characters but newline and tab."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], _SEQUENCE.sub("", text))


class LineStream(io.TextIOBase):
    """Passes each line to `log`, without its end; empty ones are left out. It is never closed."""

    mode = "w"
    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(
        self,
        descriptor: int,
        log: Callable[[str], None],
        *,
        on_draw: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`descriptor` is for programs that are to write to the same place, `on_draw` as in Screen."""
        self.name = f"<{'stdout' if descriptor == 1 else 'stderr'}>"
        self._descriptor = descriptor
        self._log = log
        self._screen = Screen(self._log_line, on_draw=on_draw, clock=clock)
        self._partial: dict[int, _Partial] = {}
        self._lock = threading.RLock()
        self.buffer = _Bytes(self)
        #: True when there may be something for `end_line` to do.
        self.has_begun = False
        # A thread of the parent may have been writing.
        os.register_at_fork(after_in_child=self._forget)

    def write(self, text: str) -> int:
        """Log the lines that are complete now."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            self.has_begun = True
            self._write(text)
        return len(text)

    def end_line(self, *, of_all_threads: bool = False) -> None:
        """Log what this thread, or any, has written without a newline, and the last state of what was drawn."""
        with self._lock:
            for thread in list(self._partial) if of_all_threads else [threading.get_ident()]:
                self._log_line(self._take(thread))
            self._screen.end()
            self.has_begun = bool(self._partial)

    def writable(self) -> bool:
        """True, as for any output."""
        return True

    def fileno(self) -> int:
        """The file descriptor of the process' own output."""
        return self._descriptor

    def flush(self) -> None:
        """Do nothing: a line is logged when it is complete."""

    def close(self) -> None:
        """Do nothing: others write to it too."""

    def reconfigure(self, **_: Any) -> None:
        """Do nothing: the log is UTF-8, in lines."""

    def _write(self, text: str) -> None:
        thread = threading.get_ident()
        text = text.replace("\r\n", "\n")
        is_alone = not text.strip("\n") and thread not in self._partial
        if "\r" in text or CURSOR_UP in text or (is_alone and self._screen.is_used):
            self._screen.draw(self._take(thread) + text)
            return
        *lines, rest = text.split("\n")
        for line in lines:
            self._log_line(self._take(thread, line))
        if rest:
            self._partial.setdefault(thread, _Partial()).add(rest)

    def _take(self, thread: int, rest: str = "") -> str:
        """The line that the thread has begun, with the rest of it."""
        partial = self._partial.pop(thread, None)
        if partial is None:
            return rest if len(rest) <= MAX_LINE else _Partial(rest).text()
        partial.add(rest)
        return partial.text()

    def _log_line(self, line: str) -> None:
        text = printable(line).rstrip()
        if text:
            self._log(text)

    def _forget(self) -> None:
        self._lock = threading.RLock()
        self._partial = {}
        self._screen.forget()


class _Partial:
    """The beginning of a line, up to MAX_LINE characters, and how many more there were."""

    def __init__(self, text: str = "") -> None:
        self._parts: list[str] = []
        self._length = 0
        self.add(text)

    def add(self, text: str) -> None:
        if text and self._length < MAX_LINE:
            self._parts.append(text[: MAX_LINE - self._length])
        self._length += len(text)

    def text(self) -> str:
        more = f" ... ({self._length} characters)" if self._length > MAX_LINE else ""
        return "".join(self._parts) + more


class _Bytes(io.BufferedIOBase):
    """The stream as one of bytes: UTF-8, and `\\xNN` for what is none."""

    def __init__(self, stream: LineStream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, data: Any) -> int:
        """Log the lines that are complete now."""
        with memoryview(data) as view:
            self._stream.write(self._decoder.decode(view.tobytes()))
            return view.nbytes

    def writable(self) -> bool:
        """True, as for any output."""
        return True

    def fileno(self) -> int:
        """The file descriptor of the process' own output."""
        return self._stream.fileno()

    def close(self) -> None:
        """Do nothing: others write to it too."""
