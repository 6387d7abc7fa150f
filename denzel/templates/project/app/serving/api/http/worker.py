"""gunicorn's worker class for the api: uvicorn on uvloop, stopped together with gunicorn."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

from app.serving.api.http.protocol import Protocol

#: Seconds between two notifications to gunicorn, which kills a worker that sends none for its `--timeout`.
NOTIFY_INTERVAL = 5

#: Seconds of computing after which a thread yields to others; Python's default, 5 ms, would show in every response.
SWITCH_INTERVAL = 0.0005


class Worker(UvicornWorker):  # type: ignore[misc]
    """One serving process of gunicorn."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": Protocol,
        "ws": "none",
        "lifespan": "off",
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_notify": NOTIFY_INTERVAL,
    }

    _watches_gunicorn = False

    def init_process(self) -> None:
        # Every request that waits holds a connection, which is an open file.
        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
        # Bounds how long the event loop waits for threads that compute, such as those in verify_input.
        sys.setswitchinterval(SWITCH_INTERVAL)
        super().init_process()

    async def callback_notify(self) -> None:
        """Notify gunicorn that this process is alive, as uvicorn starts and then every NOTIFY_INTERVAL seconds.

        Stop when gunicorn itself is gone.
        """
        await super().callback_notify()
        if not self._watches_gunicorn:
            self._watches_gunicorn = True
            self._watch_gunicorn()
            # What is there now stays: to look through it for garbage takes 20 ms and more, about once a second.
            gc.collect()
            gc.freeze()
        if os.getppid() != self.ppid:
            signal.raise_signal(signal.SIGTERM)

    def _watch_gunicorn(self) -> None:
        """Stop with gunicorn at once, on Linux: until then the next gunicorn cannot bind the port."""
        loop = asyncio.get_running_loop()
        if not hasattr(os, "pidfd_open"):
            return
        try:
            gunicorn = os.pidfd_open(self.ppid)
        except OSError:
            # An older kernel, or gunicorn is gone already, as the check of the parent's pid finds.
            return

        def on_exit() -> None:
            loop.remove_reader(gunicorn)
            os.close(gunicorn)
            signal.raise_signal(signal.SIGTERM)

        loop.add_reader(gunicorn, on_exit)
