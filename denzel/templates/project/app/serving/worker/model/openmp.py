"""OpenMP in a process that will be forked: its threads are not, and GNU's library waits for them for ever."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: The setting from which a library that is loaded now takes its number of threads.
THREADS = "OMP_NUM_THREADS"

_LIBRARY = re.compile(r"/\S*/lib(?:gomp|omp|iomp5)[^/]*\.so\S*")


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit OpenMP to the calling thread, and restore its number of threads afterwards."""
    before = os.environ.get(THREADS)
    numbers = {path: _threads(path) for path in _libraries()}
    for path in numbers:
        _set_threads(path, 1)
    os.environ[THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before
        for path in _libraries():
            # One that was loaded meanwhile was never set to the real number.
            _set_threads(path, numbers.get(path) or _number(before))


def _libraries() -> set[str]:
    """The OpenMP libraries of this process; none where there is no /proc."""
    with suppress(OSError):
        return set(_LIBRARY.findall(Path("/proc/self/maps").read_text()))
    return set()


def _threads(path: str) -> int:
    return int(ctypes.CDLL(path).omp_get_max_threads())


def _set_threads(path: str, number: int) -> None:
    ctypes.CDLL(path).omp_set_num_threads(number)


def _number(setting: str | None) -> int:
    first = (setting or "").partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) else len(os.sched_getaffinity(0))
