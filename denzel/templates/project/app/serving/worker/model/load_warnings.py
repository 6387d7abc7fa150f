"""Warnings of load_model, collected for the worker's report: a few, each once, beside the log, which has them all."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.serving.logs.lines import OWN_LOGGER
from app.serving.text import bounded

#: Warnings that are kept, and characters of each.
MAX_WARNINGS = 5
MAX_WARNING = 300

#: Meant for whoever develops a library: Python hides most of them.
_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning)

# Python's own warnings come here too, where Celery lets `logging` have them.
_PYTHONS = "py.warnings"


class LoadWarnings:
    """The warnings of a load and its repetitions: Python shows each place's once, to the first of them alone."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}

    def add(self, text: str) -> None:
        """Keep a warning, in one line; one that was there before does not count."""
        self._texts[bounded(" ".join(text.split()), MAX_WARNING)] = None

    def as_json(self) -> str:
        """`{"shown": [...], "more": 3}`: the first ones, and how many there are beside them; empty for none."""
        texts = [*self._texts]
        if not texts:
            return ""
        return json.dumps({"shown": texts[:MAX_WARNINGS], "more": len(texts[MAX_WARNINGS:])})


@contextmanager
def collected_in(kept: LoadWarnings) -> Iterator[None]:
    """Collect what `warnings` shows meanwhile, and what is logged at level WARNING or above by others than denzel."""
    show = warnings.showwarning

    def keep_and_show(message: Any, category: type[Warning], *arguments: Any, **named: Any) -> None:
        if not issubclass(category, _FOR_DEVELOPERS):
            kept.add(f"{category.__name__}: {message}")
        show(message, category, *arguments, **named)

    handler = _Keep(kept)
    root = logging.getLogger()
    root.addHandler(handler)
    warnings.showwarning = keep_and_show
    try:
        yield
    finally:
        # Unless load_model has put another one in its place.
        if warnings.showwarning is keep_and_show:
            warnings.showwarning = show
        root.removeHandler(handler)


class _Keep(logging.Handler):
    def __init__(self, kept: LoadWarnings) -> None:
        super().__init__(logging.WARNING)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == _PYTHONS or f"{record.name}.".startswith(f"{OWN_LOGGER}."):
            return
        try:
            self._kept.add(f"{record.name}: {record.getMessage()}")
        except Exception:  # noqa: BLE001  the user's own arguments; the log's handlers report it
            return
