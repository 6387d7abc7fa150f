"""A child of the supervisor: its process, its heartbeat, and the pause before it is started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from app.serving.heartbeat import HEARTBEAT_FD, LOAD_ENDED, LOADED, LOADING, SUPERVISOR_PID

#: Checks in a row without a beat after which a child hangs, and after which one that has not beaten yet does: to start
#: takes longer, on a machine that is busy or has a slow disk. Checks are counted, and not seconds: when the machine
#: slept, or the supervisor was stopped itself, the next check finds the beats written in the meantime.
MAX_MISSED = 6
MAX_MISSED_AT_START = 24

#: Seconds before a child that ended is started again: the first time, and at most; and for which one has to run, so
#: that the next pause is short again.
FIRST_PAUSE, MAX_PAUSE, STEADY_AFTER = 1.0, 30.0, 30.0

#: Seconds before one that died while it loaded a model is started again.
LOAD_PAUSE = 5.0

#: The most bytes that a pipe holds: one check reads all of them.
_PIPE = 1 << 16


class Child:
    """One child. It is started, reaped and started again; times are passed in, in seconds of one clock."""

    def __init__(self, name: str, command: list[str], environ: Mapping[str, str]) -> None:
        self.name = name
        #: None while no process runs.
        self.pid: int | None = None
        #: True between its announcements that a load has begun, and is over: meanwhile no beat is expected.
        self.is_loading = False
        #: True once it has written something, also in an earlier process.
        self.has_been_up = False
        #: The time of the next start; None for no start.
        self.start_at: float | None = 0.0
        self._command = command
        self._environ = environ
        self._pipe = -1
        self._pause = FIRST_PAUSE
        self._started_at = 0.0
        self._missed = self._max_missed = 0
        self._is_killed = False
        self._load_ended: int | None = None

    def start(self, now: float) -> None:
        """Start a process, with a pipe for its beats; raises OSError where the machine cannot."""
        self._pipe, output = os.pipe()
        os.set_blocking(self._pipe, False)
        os.set_inheritable(output, True)
        environ = {**self._environ, HEARTBEAT_FD: str(output), SUPERVISOR_PID: str(os.getpid())}
        if self._load_ended is not None:
            environ[LOAD_ENDED] = str(self._load_ended)
        try:
            self.pid = os.posix_spawnp(self._command[0], self._command, environ)
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(output)
        self.start_at, self._started_at = None, now
        self._missed, self._max_missed, self._is_killed = 0, MAX_MISSED_AT_START, False

    def hangs(self) -> bool:
        """Check its heartbeat, as is to be done in equal intervals; True when it hangs."""
        has_beaten = self._read()
        self._missed = 0 if has_beaten or self.is_loading else self._missed + 1
        return self._missed >= self._max_missed

    def send(self, number: int) -> bool:
        """Send a signal, SIGKILL only once; False where there is no process to get it."""
        if self.pid is None or self._is_killed:
            return False
        self._is_killed = number == signal.SIGKILL
        # It is there until it is reaped.
        os.kill(self.pid, number)
        return True

    def reap(self) -> int | None:
        """The exit code of a process that has ended, below 0 for a signal; None while one runs, or none was started.

        A killed process may take long to end, when the kernel itself waits for a disk.
        """
        if self.pid is None:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        # What it has written last: that it began to load the model, perhaps.
        self._read()
        os.close(self._pipe)
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def plan_restart(self, code: int | None, now: float) -> float:
        """Plan the start after one that ended with `code`, None for one that failed; returns the seconds until then."""
        if self.is_loading and code is not None:
            self.is_loading, self._load_ended = False, code
            pause = LOAD_PAUSE
        else:
            if code is not None and now - self._started_at > STEADY_AFTER:
                self._pause = FIRST_PAUSE
            pause = self._pause
            self._pause = min(2 * pause, MAX_PAUSE)
        self.start_at = now + pause
        return pause

    def _read(self) -> bool:
        """True when there was a byte in the pipe. The end of the pipe is none."""
        try:
            written = os.read(self._pipe, _PIPE)
        except BlockingIOError:
            return False
        if written:
            self.has_been_up, self._max_missed = True, MAX_MISSED
        if LOADED in written:
            self._load_ended = None
        if LOADING in written or LOADED in written:
            self.is_loading = written.rfind(LOADING) > written.rfind(LOADED)
        return bool(written)
