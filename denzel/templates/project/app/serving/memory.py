"""Memory that this process holds."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path


def memory_mb(statm: Path = Path("/proc/self/statm")) -> float:
    """The memory that this process holds, in MB; its peak where there is no /proc."""
    with suppress(OSError):
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    # In kilobytes on Linux, in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
