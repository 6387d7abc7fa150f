"""The worker's main process: `python -m app.serving.worker --hostname worker@NAME`.

It is what `celery --app app.tasks worker` would be. But that command imports all the others first, Flower's too.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import sys

from app.serving.worker.celery_app import celery_app


def main(arguments: list[str]) -> None:
    """Work until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m app.serving.worker")
    parser.add_argument("--hostname", required=True, help="the name of this worker for Celery")
    parser.add_argument("--concurrency", type=int, help="processes that predict; one for each core by default")
    options = parser.parse_args(arguments)
    # Native code that crashes leaves a traceback in what the service prints, also in the processes that are forked.
    faulthandler.enable(all_threads=False)
    # With these, Celery starts this process anew on SIGHUP.
    sys.argv = ["-m", "app.serving.worker", *arguments]
    worker = celery_app.Worker(
        hostname=options.hostname,
        concurrency=options.concurrency,
        loglevel=logging.INFO,
        optimization="default",
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


if __name__ == "__main__":
    main(sys.argv[1:])
