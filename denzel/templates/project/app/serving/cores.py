"""Cores that this container may use, and the threads of native libraries for each of several processes."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path

#: Variables from which libraries that are imported later take their number of threads.
#:
#: The first is OpenMP's, for PyTorch, scikit-learn, XGBoost and LightGBM. MKL, OpenBLAS, BLIS and NumExpr follow it
#: unless their own is set, so a user who sets the first alone has set theirs. Then: Apple's Accelerate, TensorFlow,
#: Hugging Face's tokenizers, Polars, OpenCV, and joblib for `n_jobs=-1`.
#:
#: Not Numba's, whose `set_num_threads` fails above it, nor JAX's (PJRT_NPROC), where callbacks may wait for a second
#: thread. onnxruntime has none.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "LOKY_MAX_CPU_COUNT",
)

_CGROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_cores(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """The cores that this process may use, at least 1: those of its affinity, or a lower quota of time, rounded up.

    `cgroups` is where control groups are mounted, `membership` the list of this process' own: cgroups(7).
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas(cgroups, membership))]))


def limit_threads(processes: int, environ: MutableMapping[str, str], *, cores: int | None = None) -> int:
    """Set what the user has not set of THREAD_VARIABLES, so that so many processes share the cores; returns the number.

    To be called before any library is imported that starts threads.
    """
    threads = max(1, (cores or available_cores()) // processes)
    for name in THREAD_VARIABLES:
        if not environ.get(name, "").strip():
            environ[name] = str(threads)
    return threads


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    """The limits of this process' control groups and of those above, in cores."""
    lines = []
    with suppress(OSError):
        lines = membership.read_text().splitlines()
    for line in lines:
        # Of version 2 there is one line, without a list of controllers.
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in _folders(cgroups, path):
                yield from _cores(*_words(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for folder in _folders(cgroups / "cpu", path):
                yield from _cores(*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us"))


def _folders(mount: Path, path: str) -> Iterator[Path]:
    """A control group's folder and those above. In a container, often only the mount is there, and is its own."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts) + 1):
        yield mount.joinpath(*parts[:count])


def _words(file: Path) -> list[str]:
    with suppress(OSError):
        return file.read_text().split()
    return []


def _cores(quota: str = "max", period: str = "0") -> Iterator[float]:
    """Both are in microseconds; `max` and -1 are no limit."""
    if quota.isdigit() and int(period):
        yield int(quota) / int(period)
