"""Supervisor of the sidecar, the process beside a worker (sidecar/__main__.py)."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from celery import bootsteps
from redis import RedisError

from app.serving.callbacks.checks import check_settings
from app.serving.settings import Settings
from app.serving.sidecar.heartbeat import HeartbeatMonitor
from app.serving.store.connection import connect
from app.serving.store.workers import HEARTBEAT_INTERVAL

log = logging.getLogger(__name__)

#: Seconds that callbacks under way may take when the worker stops.
CALLBACKS_GRACE = 4

#: Seconds that a killed process may take to end: longer when the kernel itself waits for a disk.
KILL_GRACE = 1.0


class SidecarSupervisor(bootsteps.StartStopStep):  # type: ignore[misc]
    """`worker.sidecar`: keeps the process running that sends callbacks and watches this one, also during a shutdown."""

    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        # Better no worker than one whose callbacks cannot be sent.
        settings: Settings = worker.app.conf.denzel_settings
        check_settings(settings)
        worker.sidecar = self
        self._redis = connect(settings.redis_url)
        self._process: subprocess.Popen[bytes] | None = None
        self._heartbeat: HeartbeatMonitor | None = None
        self._is_loading = False
        self._is_shut_down = False

    def start(self, worker: Any) -> None:
        self.keep_running()
        worker.timer.call_repeatedly(HEARTBEAT_INTERVAL, self.keep_running)

    def set_loading(self, is_loading: bool) -> None:
        """Let the sidecar renew the worker's registration while the worker loads the model, and may be unable to."""
        self._is_loading = is_loading
        if not is_loading and self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def pause_watchdog(self) -> None:
        """Stop watching the worker: it shuts down, so that it takes no more tasks does not mean that it hangs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGURG)

    def shut_down(self) -> None:
        """Terminate the sidecar, and wait at most CALLBACKS_GRACE seconds for its callbacks in flight."""
        self._is_shut_down = True
        if self._process is not None:
            self._process.terminate()
            # The container ends with this process.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CALLBACKS_GRACE)

    def keep_running(self) -> None:
        """Start the process unless it runs or was shut down. One that hangs is killed, as callbacks wait for it."""
        if self._is_shut_down:
            return
        if self._process is not None and self._process.poll() is None:
            if self._heartbeat is None or not self._heartbeat.is_overdue():
                return
            log.error("the sidecar hangs: it has stopped looking for callbacks; killing it")
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_GRACE)
            if self._process.returncode is None:
                return
        if self._process is not None:
            log.error("the sidecar ended with %s; starting it again", self._process.returncode)
        if self._heartbeat is not None:
            self._heartbeat.close()
        # The end of its input is the end of loading; its output is its heartbeat.
        source = subprocess.PIPE if self._is_loading else subprocess.DEVNULL
        command = [sys.executable, "-m", "app.serving.sidecar", str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._heartbeat = HeartbeatMonitor(self._process.stdout, self._redis_responds)

    def _redis_responds(self) -> bool:
        """True when Redis responds. Without it there is nothing to send, and the sidecar may wait long for DNS."""
        try:
            return bool(self._redis.ping())
        except RedisError:
            return False
