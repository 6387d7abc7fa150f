"""Lines of a service's log: their format, with the ids of the tasks that they are of, and what is printed as lines."""

from __future__ import annotations

import io
import logging
import re
import sys
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from app.serving.logs.current import at_end, current_ids
from app.serving.logs.stream import LineStream, printable
from app.serving.logs.tracebacks import traceback_text

#: The logger above those of all modules of the serving code.
OWN_LOGGER = "app.serving"

#: Characters of a record that are logged, with its traceback.
MAX_RECORD = 100_000

# A line that looks like the head of another record.
_HEAD = re.compile(r"\n(?=\[\d{4}-\d\d-\d\d )")

#: Batches that a formatter remembers: the worker logs for several processes, each with a batch of its own.
MAX_BATCHES = 64


class TaskFormatter(logging.Formatter):
    """`[time: LEVEL/Process-1 id] message`: no id outside of tasks, and `id+31` in a batch of 32 that runs together.

    The first line that a batch logs follows one with the ids of all its tasks.
    """

    def __init__(self, process: str = "%(processName)s") -> None:
        super().__init__(f"[%(asctime)s: %(levelname)s/{process}%(denzel_task)s] %(message)s")
        self._listed: deque[tuple[str, ...]] = deque(maxlen=MAX_BATCHES)

    def formatException(self, ei: Any) -> str:
        """The traceback, bounded."""
        return traceback_text(ei[1]) if ei[1] is not None else super().formatException(ei)

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; its traceback follows in lines of its own, none of which looks like another record."""
        ids: tuple[str, ...] = getattr(record, "denzel_ids", None) or current_ids()
        record.denzel_task = f" {ids[0]}{f'+{len(ids) - 1}' if len(ids) > 1 else ''}" if ids else ""
        line = super().format(record).rstrip("\n")
        if len(line) > MAX_RECORD:
            line = f"{line[:MAX_RECORD]} ... ({len(line)} characters)"
        if not line.isprintable():
            # What a client has sent may be in it.
            line = _HEAD.sub("\n    ", printable(line))
        if len(ids) < 2 or ids in self._listed:
            return line
        self._listed.append(ids)
        listed = {"msg": f"batch of {len(ids)} tasks: {', '.join(ids)}", "args": None, "levelname": "INFO"}
        no_traceback = {"exc_info": None, "exc_text": None, "stack_info": None}
        return f"{super().format(logging.makeLogRecord({**vars(record), **listed, **no_traceback}))}\n{line}"


def own_log(handlers: Sequence[logging.Handler]) -> None:
    """Let denzel's records go to these handlers, whatever the pipeline makes of the root logger."""
    logger = logging.getLogger(OWN_LOGGER)
    logger.handlers = list(handlers)
    logger.propagate = False
    logger.setLevel(logging.INFO)


def enable_own_log() -> None:
    """Enable denzel's loggers again: `logging.config` disables by default all that it does not name."""
    for name, logger in logging.Logger.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and f"{name}.".startswith(f"{OWN_LOGGER}."):
            logger.disabled = False


def log_output(
    handlers: Sequence[logging.Handler],
    *,
    of_all_threads: bool = True,
    on_draw: Callable[[str], None] | None = None,
) -> None:
    """Replace sys.stdout and sys.stderr: each line that is printed goes to these handlers, in UTF-8.

    Not by way of a logger: what the pipeline makes of `logging` must neither lose a line nor send it around in circles.
    Each `logged_as` ends the unfinished lines of its own thread, or of all. `on_draw` gets progress bars as they are
    drawn, as in Screen.
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
        if sys.stdout is not out or sys.stderr is not error:
            # The pipeline has put another one before it, which may hold lines back.
            for used in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    used.flush()
        for stream in streams:
            if stream.has_begun:
                stream.end_line(of_all_threads=of_all_threads)

    sys.stdout, sys.stderr = out, error = streams = (
        LineStream(1, log, on_draw=on_draw),
        LineStream(2, log, on_draw=on_draw),
    )
    warnings.formatwarning = _one_line
    at_end(end_lines)


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning without the line of code that it points to."""
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
