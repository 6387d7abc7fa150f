"""The processes of a local project, as this machine sees them: found, ended, killed, and how much they have worked."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import psutil

#: The variable that marks every process of a project with its folder.
MARK = "DENZEL_PROJECT_FOLDER"

#: How often what is left is looked for, to kill it.
_ROUNDS = 5


def processes_of(root: Path) -> list[psutil.Process]:
    """The processes of the project in this folder, supervisord's or not, also when the folder was moved under them."""
    folder = os.path.realpath(root)
    return [process for process in psutil.process_iter() if folder in _folders(process)]


def end_project(root: Path, *, within: float) -> None:
    """End every process of the project in this folder gracefully, and by force after so many seconds."""
    processes = processes_of(root)
    ids = {process.pid for process in processes}
    for process in processes:
        # Those that have a parent here end with it, in order.
        if _parent(process) not in ids:
            _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=within)
    if alive:
        # A supervisord that begins anew just now misses the signal, and starts others.
        kill_project(root)


def kill_project(root: Path) -> None:
    """End every process of the project in this folder at once."""
    for _ in range(_ROUNDS):
        # One that had its parent killed may have started others meanwhile.
        if not (left := processes_of(root)):
            return
        _kill(left)


def kill_tree(pid: int) -> None:
    """End a process and all below it at once, and return when they have ended; one that is gone is no error."""
    try:
        first = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    # Stopped first, so that it makes no others while they are listed.
    _signal(first, signal.SIGSTOP)
    _kill([first, *_below(first)])


def processor_seconds(pid: int) -> float:
    """Seconds for which the processors have worked for a process and all below it; raises ProcessLookupError."""
    try:
        first = psutil.Process(pid)
    except psutil.NoSuchProcess:
        raise ProcessLookupError(pid) from None
    return sum(map(_processor_time, [first, *_below(first)]))


def _folders(process: psutil.Process) -> tuple[str, ...]:
    """The project folder that a process was started for, and the one it is in now; nothing for any other process."""
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


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _processor_time(process: psutil.Process) -> float:
    """Seconds for which the processors have worked for it, and for those below it that have ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    # macOS says nothing of those that have ended.
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
