"""gunicorn's worker class for the api: uvicorn on uvloop, which ends with gunicorn."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

from app.serving.api.http.protocol import Protocol

#: Seconds between two signs of life to gunicorn, which ends a worker that gives none for its `--timeout`.
NOTIFY_INTERVAL = 5


#: Seconds that one thread may compute while others want to; Python's own 5 ms would be felt in every answer.
SWITCH_INTERVAL = 0.0005


class Worker(UvicornWorker):  # type: ignore[misc]
    """gunicorn's process that serves, on uvloop."""

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

    def init_process(self) -> None:
        # Every request that waits holds a connection, which is a file.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        # Threads that compute, verify_input among them, keep the event loop waiting no longer than this.
        sys.setswitchinterval(SWITCH_INTERVAL)
        super().init_process()

    async def _serve(self) -> None:
        self._notice_the_end_of_gunicorn()
        await super()._serve()

    async def callback_notify(self) -> None:
        """Tell gunicorn that this process lives; when gunicorn itself is gone, end."""
        await super().callback_notify()
        if os.getppid() != self.ppid:
            signal.raise_signal(signal.SIGTERM)

    def _notice_the_end_of_gunicorn(self) -> None:
        """End with gunicorn at once, where the system tells: until then the next one does not get the port."""
        loop = asyncio.get_running_loop()
        if not hasattr(os, "pidfd_open"):
            return
        try:
            gunicorn = os.pidfd_open(self.ppid)
        except OSError:
            # An older system, or it is gone already; the next sign of life finds out.
            return

        def ended() -> None:
            loop.remove_reader(gunicorn)
            os.close(gunicorn)
            signal.raise_signal(signal.SIGTERM)

        loop.add_reader(gunicorn, ended)
