"""Reading and following log files across their rotations."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from denzel.errors import NotLaunched

#: Seconds between two reads of a file that has nothing new.
_FOLLOW_INTERVAL = 0.2


def read_log(path: Path) -> Iterator[str]:
    """The lines of the current file; raises NotLaunched when there is none."""
    with _open(path) as file:
        for line in file:
            yield line.rstrip("\n")


def follow_log(path: Path, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """The lines of the current file, then each new one, also after a rotation; without end. Raises NotLaunched."""
    with _Following(path) as following:
        while True:
            lines = following.new_lines()
            yield from lines
            if not lines:
                sleep(_FOLLOW_INTERVAL)


def merge_logs(paths: Mapping[str, Path], *, follow: bool, tail: int | None) -> Iterator[str]:
    """The lines of several files, each after its name; the last `tail` of each, or all. With `follow`, without end."""
    width = max(map(len, paths), default=0)
    followed = {name: _Following(path) for name, path in paths.items() if path.exists()}
    first = True
    try:
        while first or follow:
            seen = {name: following.new_lines() for name, following in followed.items()}
            for name, lines in seen.items():
                if first and not follow:
                    lines = [*lines, *followed[name].rest()]
                for line in lines[max(0, len(lines) - tail) :] if first and tail is not None else lines:
                    yield f"{name:{width}} | {line}"
            if not first and not any(seen.values()):
                time.sleep(_FOLLOW_INTERVAL)
            first = False
    finally:
        for following in followed.values():
            following.close()


class _Following:
    """A log file that is read as it grows, and reopened when a new file has taken its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open(path)
        self._partial = ""

    def __enter__(self) -> _Following:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def new_lines(self) -> list[str]:
        """The lines completed since the last call."""
        replaced = self._replaced()
        *complete, self._partial = (self._partial + self._file.read()).split("\n")
        if replaced:
            self._file.close()
            self._file = _open(self._path)
        return complete

    def rest(self) -> list[str]:
        """The unfinished last line, if any: what a program printed before it was killed."""
        return [self._partial] if self._partial else []

    def _replaced(self) -> bool:
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False


def _open(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise NotLaunched(
            f"There is no worker log yet at {path}.", hint="The worker writes it once it runs: denzel launch"
        ) from None
