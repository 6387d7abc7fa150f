"""Screen of a program that draws over its lines, as progress bars do: each row's last state becomes a line of the log.

It understands what tqdm, and bars like it, write: carriage return, newline, and the sequence that moves one row up.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds between two lines of the log with the state of one bar.
SHOW_INTERVAL = 30.0

#: Seconds after which a row is complete that the cursor has left: a bar above others is left while these are drawn.
LEFT_FOR = 1.0

#: Rows at most, tqdm's own limit being the height of a terminal; and characters that a row keeps.
MAX_ROWS = 40
MAX_ROW = 2000

CURSOR_UP = "\x1b[A"

_TOKEN = re.compile(r"\r|\n|\x1b\[A|[^\r\n\x1b]+|\x1b(?!\[A)[^\r\n\x1b]*")
_DONE = re.compile(r"\b100%")


@dataclass
class _Row:
    """One row: its text, whether the next text replaces that, and when it was shown and left."""

    shown_at: float
    text: str = ""
    shown: str = ""
    is_overdrawn: bool = False
    left_at: float | None = None


class Screen:
    """The rows that a program draws, until `end`. `show` gets what becomes a line of the log; `on_draw`, if given, the
    text of the top row each time that it changes.
    """

    def __init__(
        self,
        show: Callable[[str], None],
        *,
        on_draw: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show = show
        self._on_draw = on_draw
        self._clock = clock
        self._rows: list[_Row] = []
        self._at = 0

    @property
    def is_used(self) -> bool:
        """True from the first thing that was drawn until `end`."""
        return bool(self._rows)

    def draw(self, text: str) -> None:
        """Draw text with its control characters."""
        now = self._clock()
        self._show_complete(now)
        for token in _TOKEN.findall(text):
            row = self._row(now)
            if token == "\r":
                row.is_overdrawn = True
            elif token == "\n":
                self._leave(row, now)
            elif token == CURSOR_UP:
                self._at = max(0, self._at - 1)
                self._row(now).left_at = None
            else:
                self._write(row, token, now)

    def end(self) -> None:
        """Show the last state of each row, and begin anew."""
        rows = self._rows
        self.forget()
        for row in rows:
            self._show_row(row)

    def forget(self) -> None:
        """Begin anew, without showing anything."""
        self._rows, self._at = [], 0

    def _row(self, now: float) -> _Row:
        while self._at >= len(self._rows):
            self._rows.append(_Row(shown_at=now))
        return self._rows[self._at]

    def _write(self, row: _Row, text: str, now: float) -> None:
        row.text = (text if row.is_overdrawn else row.text + text)[:MAX_ROW]
        row.is_overdrawn = False
        if now - row.shown_at >= SHOW_INTERVAL:
            self._show_row(row)
            row.shown_at = now
        if self._at == 0 and self._on_draw is not None and row.text.strip():
            self._on_draw(row.text)

    def _leave(self, row: _Row, now: float) -> None:
        row.left_at = now
        self._at += 1
        if self._at >= MAX_ROWS or (self._at == 1 and _DONE.search(row.text)):
            self._drop_first()

    def _show_complete(self, now: float) -> None:
        while self._at > 0 and (left := self._rows[0].left_at) is not None and now - left >= LEFT_FOR:
            self._drop_first()

    def _drop_first(self) -> None:
        self._show_row(self._rows.pop(0))
        self._at -= 1

    def _show_row(self, row: _Row) -> None:
        text = row.text.strip()
        if text and text != row.shown:
            row.shown = text
            self._show(text)
