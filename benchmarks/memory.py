"""Memory of a project's processes on the local backend: the sum of their proportional set sizes (PSS).

Usage: python benchmarks/memory.py PROJECT_FOLDER; Linux only. A page that several processes share counts once.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path


def project_folder(process: Path) -> str:
    """The project folder of a process, from its environment; empty for other processes."""
    try:
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    marks = (text.decode().partition("=")[2] for text in variables if text.startswith(b"DENZEL_PROJECT_FOLDER="))
    return next(marks, "")


def proportional(process: Path) -> tuple[float, float]:
    """The PSS of a process in MB, and the part of it that no other process shares."""
    text = (process / "smaps_rollup").read_text()
    pss, private = (
        sum(int(number) for number in re.findall(rf"^{name}: +(\d+)", text, re.M)) for name in ("Pss", r"Private_\w+")
    )
    return pss / 1024, private / 1024


def main(folder: Path) -> None:
    total = 0.0
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        if project_folder(process) != os.path.realpath(folder):
            continue
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            share, own = proportional(process)
        except OSError:  # It has just ended.
            continue
        total += share
        print(f"{process.name:>8} {share:7.1f} MB, its own {own:7.1f} MB  {command[:90]}")
    print(f"together {total:7.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
