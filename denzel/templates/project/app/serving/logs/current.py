"""Ids of the tasks that this process runs, for each line of its log.

A predicting process runs one task, or one batch, at a time. So the ids belong to the process and not to a thread or a
context: what the pipeline's own threads print is of that task too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ids: tuple[str, ...] = ()
_at_end: list[Callable[[], None]] = []


def current_ids() -> tuple[str, ...]:
    """The ids of the tasks that run now; those of a batch that runs together are several."""
    return _ids


@contextmanager
def logged_as(*ids: str) -> Iterator[None]:
    """Log what happens meanwhile with these tasks' ids; at the end, what was printed without a newline too."""
    global _ids
    outer, _ids = _ids, ids
    try:
        yield
    finally:
        for function in _at_end:
            function()
        _ids = outer


def at_end(function: Callable[[], None]) -> None:
    """Call this at the end of each `logged_as`."""
    _at_end.append(function)
