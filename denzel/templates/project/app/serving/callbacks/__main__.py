"""The sender of callbacks, as a process: `python -m app.serving.callbacks`.

It is one of its own so that no endpoint can delay or fail a prediction.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys

import uvloop

from app.serving.callbacks.connections import ConnectionPool
from app.serving.callbacks.delivery import Delivery
from app.serving.callbacks.egress import EgressPolicy
from app.serving.callbacks.sender import CallbackSender
from app.serving.callbacks.signature import read_secret
from app.serving.heartbeat import BEAT_INTERVAL, SUPERVISOR_PID, Heartbeat
from app.serving.settings import SettingError, Settings
from app.serving.store.connection import connect
from app.serving.store.outbox import Outbox


async def send_callbacks(settings: Settings, heartbeat: Heartbeat, parent: int) -> None:
    """Send callbacks until SIGTERM, or until `parent` is gone; raises SettingError."""
    connections = ConnectionPool(EgressPolicy.of(settings), timeout=settings.callback_timeout)
    delivery = Delivery(connections, key=read_secret(settings.callback_secret), retry_for=settings.callback_retry_for)
    outbox = Outbox(
        connect(settings.redis_url), result_ttl=settings.result_lifetime, callback_ttl=settings.callback_lifetime
    )
    sender = CallbackSender(outbox, delivery.send)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sender.stop)
    sending = asyncio.create_task(sender.run())
    while not sending.done():
        if os.getppid() != parent:
            sender.stop()
        if not sender.hangs():
            heartbeat.beat()
        connections.close_idle()
        await asyncio.wait({sending}, timeout=BEAT_INTERVAL)
    await sending


def main() -> None:
    """Run the process that the environment describes."""
    parent = int(os.environ.get(SUPERVISOR_PID) or os.getppid())
    faulthandler.enable(all_threads=False)
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s: %(levelname)s/Callbacks] %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        settings = Settings.from_environment(os.environ)
        uvloop.run(send_callbacks(settings, Heartbeat.from_environment(os.environ), parent))
    except SettingError as error:
        sys.exit(str(error))
    logging.shutdown()
    # A thread may be looking up a name for half a minute, and an exit would wait for it.
    os._exit(0)


if __name__ == "__main__":
    main()
