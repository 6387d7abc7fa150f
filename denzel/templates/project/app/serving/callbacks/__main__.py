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
from queue import Empty, SimpleQueue

from redis import RedisError

from app.serving.callbacks.connections import ConnectionPool
from app.serving.callbacks.delivery import Delivery
from app.serving.callbacks.egress import EgressPolicy
from app.serving.callbacks.sender import CallbackSender
from app.serving.callbacks.signature import read_secret
from app.serving.heartbeat import Heartbeat
from app.serving.settings import SettingError, Settings
from app.serving.store.connection import connect
from app.serving.store.outbox import Outbox
from app.serving.store.workers import HEARTBEAT_INTERVAL, WorkerRegistry

#: Seconds between two checks that the worker is still there.
WORKER_CHECK_INTERVAL = 1.0


def check_settings(settings: Settings) -> None:
    """Raise SettingError where the sidecar could not start: then the worker should not either."""
    EgressPolicy.of(settings)
    read_secret(settings.callback_secret)


def make_sender(settings: Settings, heartbeat: Heartbeat) -> CallbackSender:
    """The sender of a deployment; raises SettingError."""
    connections = ConnectionPool(EgressPolicy.of(settings), timeout=settings.callback_timeout)
    outbox = Outbox(
        connect(settings.redis_url), result_ttl=settings.result_lifetime, callback_ttl=settings.callback_lifetime
    )
    delivery = Delivery(
        connections,
        key=read_secret(settings.callback_secret),
        timeout=settings.callback_timeout,
        retry_for=settings.callback_retry_for,
    )
    return CallbackSender(outbox, delivery.send, on_renew=connections.close_idle, on_tick=heartbeat.beat)


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
    try:
        settings = Settings.from_environment(os.environ)
        # The worker reads the output, and restarts this process when it hangs.
        sender = make_sender(settings, Heartbeat.from_environment(os.environ))
    except SettingError as error:
        sys.exit(str(error))
    stops: SimpleQueue[None] = SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: stops.put(None))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sending = threading.Thread(target=sender.run, name="callbacks", daemon=True)
    sending.start()
    while os.getppid() == worker and sending.is_alive():
        with suppress(Empty):
            stops.get(timeout=WORKER_CHECK_INTERVAL)
            break
    if not sending.is_alive():
        sys.exit("the thread that sends callbacks has died")
    sender.stop()
    sending.join()


if __name__ == "__main__":
    main(os.getppid())
