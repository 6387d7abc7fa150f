"""Lines of a service's log: their format, with the ids of the tasks that they are of, and what is printed as lines."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from typing import Any

from app.serving.logs.current import at_end, current_ids
from app.serving.logs.stream import LineStream
from app.serving.logs.tracebacks import traceback_text


class TaskFormatter(logging.Formatter):
    """`[time: LEVEL/Process-1 id] message`: no id outside of tasks, and `id+31` in a batch of 32 that runs together.

    The first line that a batch logs follows one with the ids of all its tasks.
    """

    def __init__(self, process: str = "%(processName)s") -> None:
        super().__init__(f"[%(asctime)s: %(levelname)s/{process}%(denzel_task)s] %(message)s")
        self._listed: tuple[str, ...] = ()

    def formatException(self, ei: Any) -> str:
        """The traceback, bounded."""
        return traceback_text(ei[1]) if ei[1] is not None else super().formatException(ei)

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; its traceback follows in lines of its own."""
        ids = current_ids()
        record.denzel_task = f" {ids[0]}{f'+{len(ids) - 1}' if len(ids) > 1 else ''}" if ids else ""
        line = super().format(record).rstrip("\n")
        if len(ids) < 2 or ids is self._listed:
            return line
        self._listed = ids
        listed = {"msg": f"batch of {len(ids)} tasks: {', '.join(ids)}", "args": None, "levelname": "INFO"}
        no_traceback = {"exc_info": None, "exc_text": None, "stack_info": None}
        return f"{super().format(logging.makeLogRecord({**vars(record), **listed, **no_traceback}))}\n{line}"


def log_output(handlers: Sequence[logging.Handler], *, of_all_threads: bool = True) -> None:
    """Replace sys.stdout and sys.stderr: each line that is printed goes to these handlers, in UTF-8.

    Not by way of a logger: what the pipeline makes of `logging` must neither lose a line nor send it around in circles.
    Each `logged_as` ends the unfinished lines of its own thread, or of all.
    """
    # Those of the process are left to the handlers, and to what writes to them on purpose.
    for output in (sys.__stdout__, sys.__stderr__):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(encoding="utf-8", errors="backslashreplace")

    def log(line: str) -> None:
        record = logging.LogRecord("print", logging.INFO, "", 0, line, None, None)
        for handler in handlers:
            handler.handle(record)

    def end_lines() -> None:
        for stream in streams:
            stream.end_line(of_all_threads=of_all_threads)

    streams = LineStream(1, log), LineStream(2, log)
    sys.stdout, sys.stderr = streams
    at_end(end_lines)
