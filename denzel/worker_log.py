"""The worker's log file in the project, read across its rotations."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from denzel.errors import NotLaunched


def read_log(path: Path) -> Iterator[str]:
    """The lines of the current file; raises NotLaunched when there is none."""
    with _open(path) as file:
        for line in file:
            yield line.rstrip("\n")


def follow_log(path: Path, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """The lines of the current file, then each new one, also when a new file takes its place; without end."""
    file = _open(path)
    partial = ""
    try:
        while True:
            replaced = _replaced(path, file.fileno())
            text = partial + file.read()
            *complete, partial = text.split("\n")
            yield from complete
            if replaced:
                file.close()
                file = _open(path)
            elif not complete:
                sleep(0.2)
    finally:
        file.close()


def _open(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise NotLaunched(
            f"There is no worker log yet at {path}.", hint="The worker writes it once it runs: denzel launch"
        ) from None


def _replaced(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
