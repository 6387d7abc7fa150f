"""Member of the predicting processes: one process, its part of the scoreboard, its place and its owner."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from app.serving.store.claims import new_owner
from app.serving.worker.batching.place import Place
from app.serving.worker.batching.scoreboard import NOT_STARTED, Activity, Slot
from app.serving.worker.native_output import NativeOutput

log = logging.getLogger(__name__)


class Running(NamedTuple):
    """A task that a process runs now, and since how many seconds."""

    task_id: str
    pid: int
    seconds: float


class Cancelled(NamedTuple):
    """A cancelled task, and True when its process was killed for it."""

    task_id: str
    terminated: bool


@dataclass(kw_only=True)
class Member:
    """One of the processes, or the place of one that is about to be started."""

    name: str
    slot: Slot
    place: Place
    owner: str = field(default_factory=new_owner)
    process: BaseProcess | None = None
    next_start: float = 0.0
    #: The tasks for which the process was killed: as one was cancelled, or as they took too long.
    cancelled: str = ""
    overdue: list[str] = field(default_factory=list)
    is_told_to_stop: bool = False
    silent_rounds: int = 0

    @property
    def pid(self) -> int:
        """The id of the process; 0 for none."""
        process = self.process
        return (process.pid or 0) if process is not None else 0

    @property
    def is_loading(self) -> bool:
        """True while the process loads its model."""
        return self.slot.activity is Activity.LOADING

    def start(self, run: Callable[..., None]) -> None:
        """Start a new process, which calls `run(owner=, slot=, place=)`, as a new owner of claims."""
        self.slot.reset()
        self.owner = new_owner()
        self.cancelled, self.overdue, self.silent_rounds = "", [], 0
        arguments = {"run": run, "owner": self.owner, "slot": self.slot, "place": self.place}
        output = NativeOutput(self.name, self.slot.running)
        context = multiprocessing.get_context("fork")
        # A daemon: Python would wait for others at the end of the worker, for ever.
        process = context.Process(target=_run_and_exit, args=(output,), name=self.name, kwargs=arguments, daemon=True)
        process.start()
        output.read()
        self.process = process

    def bury(self) -> int | None:
        """The exit code of a process that has ended; None while it runs, or there is none."""
        if self.process is None or self.process.is_alive():
            return None
        code = self.process.exitcode or 0
        # Not closed: another thread may be about to ask for its id.
        self.process = None
        self.place.release()
        return code

    def terminate(self) -> None:
        """Let the process end after its batch; one that loads its model is killed."""
        if self.is_loading:
            self.kill()
        elif not self.is_told_to_stop and self.process is not None:
            self.is_told_to_stop = True
            self.process.terminate()

    def kill(self) -> None:
        """Kill the process, whatever it does."""
        process = self.process
        if process is not None:
            process.kill()

    def suspects(self) -> list[str]:
        """The tasks of which the process may have died, given that it has; none when it was killed for another one."""
        view = self.slot.view()
        has_gone_on = bool(self.overdue) and view.suspects != self.overdue
        return view.suspects if view.activity is Activity.RUNNING and not self.cancelled and not has_gone_on else []

    def running(self) -> list[Running]:
        """The tasks that the process runs now."""
        view = self.slot.view()
        if not self.pid or view.position == NOT_STARTED:
            return []
        return [Running(task_id, self.pid, view.seconds) for task_id in view.suspects]


def _run_and_exit(output: NativeOutput, run: Callable[..., None], **arguments: object) -> None:
    code = 1
    try:
        output.write()
        run(**arguments)
        code = 0
    except BaseException:
        log.exception("a predicting process failed")
    finally:
        logging.shutdown()
        # Whatever threads the pipeline has started.
        os._exit(code)
