"""Frames of a failed load: the user's line, and what an unpickler was doing, as pickle's own in C leaves no frame."""

from __future__ import annotations

import dis
import linecache
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

#: Modules with functions that unpickle.
_UNPICKLERS = ("pickle", "_pickle", "joblib", "dill", "cloudpickle", "torch.serialization", "pandas.io.pickle", "skops")

_PREFIXES = tuple(f"{module}." for module in _UNPICKLERS)

_UNPICKLER_FILE = re.compile(
    r"[/\\](pickle\.py|joblib[/\\]numpy_pickle\w*\.py|dill[/\\]_dill\.py|torch[/\\]serialization\.py)$"
)
_DOTTED_NAME = re.compile(r"[A-Za-z_][\w.]*")


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, and those that led to it, the first one last."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def frames(error: BaseException) -> list[tuple[FrameType, TracebackType]]:
    """The frames of its traceback, the innermost last."""
    found = []
    entry = error.__traceback__
    while entry is not None:
        found.append((entry.tb_frame, entry))
        entry = entry.tb_next
    return found


def users_place(error: BaseException) -> tuple[Path, int, str] | None:
    """File, line and function of the user's innermost code in app/logic; None without any."""
    logic = Path.cwd() / "app" / "logic"
    for frame, entry in reversed(frames(error)):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(logic):
            return path.relative_to(Path.cwd()), entry.tb_lineno, frame.f_code.co_name
    return None


def unpickles(error: BaseException) -> bool:
    """True when the exception was raised while something was unpickled."""
    return any(
        _UNPICKLER_FILE.search(frame.f_code.co_filename) or _calls_unpickler(frame, entry)
        for frame, entry in frames(error)
    )


def is_import_statement(error: BaseException) -> bool:
    """True when the innermost frame was at an `import`, and not at a call that imports."""
    found = frames(error)
    if not found:
        return True
    frame, entry = found[-1]
    code = frame.f_code.co_code
    return 0 <= entry.tb_lasti < len(code) and dis.opname[code[entry.tb_lasti]] in ("IMPORT_NAME", "IMPORT_FROM")


def _calls_unpickler(frame: FrameType, entry: TracebackType) -> bool:
    """True when a function that unpickles is being called there, or a method of an object that does."""
    names = _DOTTED_NAME.findall(_instruction(frame, entry))
    return any(_is_unpickler(value) for name in names for value in _values(frame, name.rstrip(".")))


def _is_unpickler(value: Any) -> bool:
    places = (getattr(value, "__module__", None) if callable(value) else None, type(value).__module__)
    return any(isinstance(place, str) and f"{place}.".startswith(_PREFIXES) for place in places)


def _instruction(frame: FrameType, entry: TracebackType) -> str:
    """The text of the expression that was evaluated."""
    summary = traceback.extract_tb(entry, limit=1)[0]
    line = linecache.getline(summary.filename, summary.lineno or 0, frame.f_globals)
    if summary.end_lineno != summary.lineno or summary.colno is None or summary.end_colno is None:
        return line
    return line.encode()[summary.colno : summary.end_colno].decode(errors="replace")


def _values(frame: FrameType, name: str) -> Iterator[Any]:
    """The values of a dotted name in that frame, and of each of its beginnings."""
    first, *rest = name.split(".")
    for names in (frame.f_locals, frame.f_globals):
        if first in names:
            value = names[first]
            yield value
            for attribute in rest:
                # Of a module or an instance alone: nothing of the user's is run for a hint.
                value = getattr(value, "__dict__", {}).get(attribute, getattr(type(value), attribute, None))
                yield value
            return
