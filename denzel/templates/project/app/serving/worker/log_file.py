"""The worker's log file: written by every process of the worker, rotated by one."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

#: Bytes after which a new file is started, and how many old ones are kept (`worker.log.1` is the newest).
ROTATE_AT = 10 * 1024 * 1024
KEEP = 5

log = logging.getLogger(__name__)


def add_handler(logger: logging.Logger, path: Path, formatter: logging.Formatter | None) -> None:
    """Write the records of `logger` to `path` as well; log a warning when that cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # This handler reopens a file that was moved away, so any number of processes can share it.
        handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        logger.warning("no log file: %s", error)
        return
    handler.setFormatter(formatter)
    logger.addHandler(handler)


def rotate(path: Path, *, at: int = ROTATE_AT, keep: int = KEEP) -> None:
    """Move a file of `at` bytes or more aside, and drop the oldest; only one process may call this."""
    try:
        if path.stat().st_size < at:
            return
        for number in range(keep - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("log file not rotated: %s", error)
