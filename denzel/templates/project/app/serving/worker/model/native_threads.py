"""Native thread pools in a process that will be forked: their threads are not, and some would be waited for."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: The settings from which a library that is loaded now takes its number of threads.
OPENMP, OPENBLAS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"

# The libraries of each, and the names of the functions that read and set the number; SciPy's builds of OpenBLAS have
# names of their own.
_OPENMP_LIBRARY = re.compile(r"/\S*/lib(?:gomp|omp|iomp5)[^/\s]*\.so\S*")
_OPENBLAS_LIBRARY = re.compile(r"/\S*/lib\w*openblas[^/\s]*\.so\S*")
_FUNCTIONS = [("omp_get_max_threads", "omp_set_num_threads")] + [
    (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
    for prefix in ("", "scipy_")
    for suffix in ("", "64_")
]


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit OpenMP and OpenBLAS to the calling thread, and restore their numbers of threads afterwards."""
    before = {name: os.environ.get(name) for name in (OPENMP, OPENBLAS)}
    numbers = {path: _threads(path) for path in _libraries()}
    for path in numbers:
        _set_threads(path, 1)
    os.environ.update({OPENMP: "1", OPENBLAS: "1"})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        for path, setting in _libraries().items():
            # One that was loaded meanwhile was never set to the real number.
            _set_threads(path, numbers.get(path) or _number(before[setting]))


def _libraries() -> dict[str, str]:
    """The libraries of this process, and the setting of each; none where there is no /proc."""
    with suppress(OSError):
        maps = Path("/proc/self/maps").read_text()
        openmp, openblas = _OPENMP_LIBRARY.findall(maps), _OPENBLAS_LIBRARY.findall(maps)
        return dict.fromkeys(openmp, OPENMP) | dict.fromkeys(openblas, OPENBLAS)
    return {}


def _functions(path: str) -> tuple[str, str] | None:
    library = ctypes.CDLL(path)
    return next((names for names in _FUNCTIONS if all(hasattr(library, name) for name in names)), None)


def _threads(path: str) -> int:
    names = _functions(path)
    return int(getattr(ctypes.CDLL(path), names[0])()) if names else 0


def _set_threads(path: str, number: int) -> None:
    if names := _functions(path):
        getattr(ctypes.CDLL(path), names[1])(number)


def _number(setting: str | None) -> int:
    first = (setting or "").partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) else len(os.sched_getaffinity(0))
