"""Ids of the tasks that this process runs, for each line of its log.

A predicting process runs one task, or one batch, at a time. So the ids belong to the process and not to a thread or a
context: what the pipeline's own threads print is of that task too.
"""

from __future__ import annotations

from collections.abc import Callable

_ids: tuple[str, ...] = ()
_at_end: list[Callable[[], None]] = []


def current_ids() -> tuple[str, ...]:
    """The ids of the tasks that run now; those of a batch that runs together are several."""
    return _ids


class logged_as:
    """Log what happens meanwhile with these tasks' ids; at the end, what was printed without a newline too.

    A class, as a generator's context takes twice the time, and each task has one.
    """

    __slots__ = ("_ids", "_outer")

    def __init__(self, *ids: str) -> None:
        self._ids = ids

    def __enter__(self) -> None:
        global _ids
        self._outer, _ids = _ids, self._ids

    def __exit__(self, *_: object) -> None:
        global _ids
        try:
            for function in _at_end:
                function()
        finally:
            _ids = self._outer


def at_end(function: Callable[[], None]) -> None:
    """Call this at the end of each `logged_as`."""
    _at_end.append(function)
