"""The sidecar of a worker, which sends callbacks and watches the worker: `python -m app.serving.sidecar WORKER_PID`.

As a process of its own, it keeps endpoints from delaying or failing a prediction, and notices a worker that hangs.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import signal
import sys
import threading
from contextlib import suppress

import uvloop
from redis import RedisError

from app.serving.callbacks.__main__ import send_callbacks
from app.serving.callbacks.checks import check_settings
from app.serving.heartbeat import Heartbeat
from app.serving.settings import SettingError, Settings
from app.serving.sidecar.watchdog import Watchdog
from app.serving.store.connection import connect
from app.serving.store.workers import HEARTBEAT_INTERVAL, WorkerRegistry


def start_watchdog(worker: int, settings: Settings) -> None:
    """Watch the worker in a thread, and kill it when it hangs: Docker or supervisord restarts it.

    A worker that shuts down takes nothing more, and sends SIGURG: a signal that does no harm when it comes early.
    """
    watchdog = Watchdog(connect(settings.redis_url), f"worker@{settings.project_name}")
    stopping = threading.Event()
    signal.signal(signal.SIGURG, lambda *_: stopping.set())

    def end_worker() -> None:
        if os.getppid() == worker:
            os.kill(worker, signal.SIGKILL)

    threading.Thread(target=watchdog.run, args=(stopping, end_worker), daemon=True).start()


def renew_registration(settings: Settings) -> None:
    """Renew the worker's registration until the input ends: its own threads may not run while it loads the model."""
    registry = WorkerRegistry(connect(settings.redis_url))
    while not select.select([sys.stdin], [], [], HEARTBEAT_INTERVAL)[0]:
        with suppress(RedisError):
            registry.touch(f"worker@{settings.project_name}")


def main(worker: int) -> None:
    """Run until SIGTERM, or until the worker, which started this process, is gone."""
    faulthandler.enable(all_threads=False)
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s: %(levelname)s/Sidecar] %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        settings = Settings.from_environment(os.environ)
        check_settings(settings)
    except SettingError as error:
        sys.exit(str(error))
    start_watchdog(worker, settings)
    threading.Thread(target=renew_registration, args=(settings,), daemon=True).start()
    # The worker reads the output, and restarts this process when it hangs.
    uvloop.run(send_callbacks(settings, Heartbeat(sys.stdout.fileno()), worker))
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
