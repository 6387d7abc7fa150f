"""Processes of a local project: finding, terminating and killing them, and their processor time."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import psutil

#: The environment variable with the project's folder, which marks all of its processes.
MARK = "DENZEL_PROJECT_FOLDER"

#: Rounds of killing until no process should be left.
_KILL_ROUNDS = 5


def processes_of(root: Path) -> list[psutil.Process]:
    """The processes of the project in this folder, supervisord's or not, even after the folder was moved."""
    folder = os.path.realpath(root)
    return [process for process in psutil.process_iter() if folder in _folders(process)]


def end_project(root: Path, *, within: float) -> None:
    """Terminate every process of the project in this folder, and kill those left after `within` seconds."""
    processes = processes_of(root)
    ids = {process.pid for process in processes}
    for process in processes:
        # Children end with their parent, in order.
        if _parent(process) not in ids:
            _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=within)
    if alive:
        # A supervisord that is restarting misses the signal, and starts others.
        kill_project(root)


def kill_project(root: Path) -> None:
    """Kill every process of the project in this folder."""
    for _ in range(_KILL_ROUNDS):
        # A process may have started others before it was killed.
        if not (left := processes_of(root)):
            return
        _kill(left)


def kill_tree(pid: int) -> None:
    """Kill a process and its descendants, and return when they have ended; a missing process is no error."""
    try:
        first = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    # Stopped first, so that it starts no others while they are listed.
    _signal(first, signal.SIGSTOP)
    _kill([first, *_descendants(first)])


def processor_seconds(pid: int) -> float:
    """Seconds of processor time of a process and its descendants; raises ProcessLookupError."""
    try:
        first = psutil.Process(pid)
    except psutil.NoSuchProcess:
        raise ProcessLookupError(pid) from None
    return sum(map(_processor_time, [first, *_descendants(first)]))


def _folders(process: psutil.Process) -> tuple[str, ...]:
    """The project folder that a process was started for, and its current one; empty for any other process."""
    try:
        started_for = process.environ().get(MARK) if process.pid != os.getpid() else None
        return (started_for, process.cwd()) if started_for else ()
    except (psutil.Error, OSError):
        return ()


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _processor_time(process: psutil.Process) -> float:
    """Seconds of processor time of a process and of its ended children."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    # macOS has no times of ended children.
    return float(sum(times[:2])) + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=5)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
