"""Tracebacks of the log, bounded: a message may hold megabytes, and a recursion thousands of lines."""

from __future__ import annotations

import traceback

#: Characters of a line, and lines, that are kept.
MAX_LINE = 2000
MAX_LINES = 400


def traceback_text(error: BaseException) -> str:
    """The traceback of an exception; of long lines the end is left out, of many lines the middle."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    if len(lines) > MAX_LINES:
        lines[MAX_LINES // 2 : -MAX_LINES // 2] = [f"... {len(lines) - MAX_LINES} lines ..."]
    return "\n".join(line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} ..." for line in lines)
