"""The process beside a worker, which sends callbacks and watches it: `python -m app.serving.sidecar WORKER_PID`.

A process of its own, so that no receiver can delay or fail a prediction, and that a worker which hangs is noticed.
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
from app.serving.settings import SettingError, Settings
from app.serving.sidecar.heartbeat import HeartbeatWriter
from app.serving.sidecar.watchdog import Watchdog
from app.serving.store.connection import connect
from app.serving.store.outbox import Outbox
from app.serving.store.workers import HEARTBEAT_INTERVAL, WorkerRegistry

#: Seconds between two looks at whether the worker is still there.
LOOK_EVERY = 1.0


def check(settings: Settings) -> None:
    """Raise SettingError where the process beside a worker could not start: then the worker should not either."""
    EgressPolicy.of(settings)
    read_secret(settings.callback_secret)


def make_sender(settings: Settings, heart: HeartbeatWriter) -> CallbackSender:
    """The sender of a deployment; raises SettingError."""
    connections = ConnectionPool(EgressPolicy.of(settings), timeout=settings.callback_timeout)
    outbox = Outbox(
        connect(settings.redis_url),
        result_ttl=settings.result_lifetime,
        callback_ttl=settings.callback_lifetime,
    )
    delivery = Delivery(
        connections,
        key=read_secret(settings.callback_secret),
        timeout=settings.callback_timeout,
        retry_for=settings.callback_retry_for,
    )
    return CallbackSender(outbox, delivery.send, on_renew=connections.close_idle, on_tick=heart.beat)


def look_after(worker: int, settings: Settings) -> None:
    """Begin to watch the worker, and end it when it hangs: whatever keeps services running starts it again.

    A worker that stops takes nothing more; it says so with SIGURG, which does no harm when it comes early.
    """
    watchdog = Watchdog(connect(settings.redis_url), f"worker@{settings.project_name}")
    looking_away = threading.Event()
    signal.signal(signal.SIGURG, lambda *_: looking_away.set())

    def end_worker() -> None:
        if os.getppid() == worker:
            os.kill(worker, signal.SIGKILL)

    threading.Thread(target=watchdog.run, args=(looking_away, end_worker), daemon=True).start()


def keep_report(settings: Settings) -> None:
    """Keep the worker's report until the input ends: while it loads the model itself, its threads may not get to it."""
    reports = WorkerRegistry(connect(settings.redis_url))
    while not select.select([sys.stdin], [], [], HEARTBEAT_INTERVAL)[0]:
        with suppress(RedisError):
            reports.touch(f"worker@{settings.project_name}")


def main(worker: int) -> None:
    """Work until told to stop by SIGTERM, or until the worker, which started this process, is gone."""
    faulthandler.enable(all_threads=False)
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s: %(levelname)s/Sidecar] %(message)s")
    try:
        settings = Settings.from_environment(os.environ)
        # The worker listens to the output, and starts this process again when it hangs.
        sender = make_sender(settings, HeartbeatWriter(sys.stdout.fileno()))
    except SettingError as error:
        sys.exit(str(error))
    told_to_stop: SimpleQueue[None] = SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: told_to_stop.put(None))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sending = threading.Thread(target=sender.run, name="callbacks", daemon=True)
    sending.start()
    look_after(worker, settings)
    threading.Thread(target=keep_report, args=(settings,), daemon=True).start()
    while os.getppid() == worker and sending.is_alive():
        with suppress(Empty):
            told_to_stop.get(timeout=LOOK_EVERY)
            break
    if not sending.is_alive():
        sys.exit("the thread that sends callbacks has died")
    sender.stop()
    sending.join()


if __name__ == "__main__":
    main(int(sys.argv[1]))
