"""The worker's main process: `python -m app.serving.worker --hostname worker@NAME`.

It does what `celery --app app.tasks worker` does. But that command first imports all others, Flower's too.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys

from app.serving.callbacks.egress import check_settings
from app.serving.cores import available_cores, limit_threads
from app.serving.heartbeat import SUPERVISOR_PID, Heartbeat
from app.serving.worker.celery_app import celery_app
from app.serving.worker.native_output import keep_own_output
from app.serving.worker.node import ProcessPool
from app.serving.worker.process import exit_with_parent


def main(arguments: list[str]) -> None:
    """Run the worker until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m app.serving.worker")
    parser.add_argument("--hostname", required=True, help="the name of this worker for Celery")
    parser.add_argument("--concurrency", type=int, help="processes that predict; one for each core by default")
    options = parser.parse_args(arguments)
    keep_own_output()
    # Native code that crashes leaves a traceback in the service's output, and in forked processes in the worker's log.
    faulthandler.enable(file=2, all_threads=False)
    # Better no worker than one whose callbacks cannot be sent.
    check_settings(celery_app.conf.denzel_settings)
    processes = options.concurrency or available_cores()
    limit_threads(processes, os.environ)
    if supervisor := os.environ.get(SUPERVISOR_PID):
        exit_with_parent(int(supervisor))
    ProcessPool.heartbeat = Heartbeat.from_environment(os.environ)
    worker = celery_app.Worker(
        hostname=options.hostname,
        concurrency=processes,
        loglevel=logging.INFO,
        optimization="default",
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


if __name__ == "__main__":
    main(sys.argv[1:])
