"""The service's first process, above the worker and the sender: `python -m app.serving.supervisor [--concurrency N]`.

It is small, and imports little: it keeps neither Celery nor a client of Redis in memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from app.serving.supervisor.child import Child
from app.serving.supervisor.supervisor import Supervisor

#: The command that renews or removes the worker's report, from the project's folder.
ORDER = ("bash", "entrypoints/health.sh")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run both children until a signal to stop; `arguments` are passed on to the worker. Returns the exit code."""
    python = [sys.executable, "-m"]
    hostname = f"worker@{environ['PROJECT_NAME']}"
    worker = Child("worker", [*python, "app.serving.worker", "--hostname", hostname, *arguments], environ)
    sender = Child("sender", [*python, "app.serving.callbacks"], environ)
    return Supervisor(worker, sender, ORDER, stop_timeout=stop_timeout(environ)).run()


def stop_timeout(environ: Mapping[str, str]) -> float:
    """STOP_TIMEOUT in seconds, as in settings.py, whose import would cost two megabytes.

    One that is no number ends the worker with a message.
    """
    try:
        return max(10.0, float(environ.get("STOP_TIMEOUT", "").strip() or 30))
    except ValueError:
        return 30.0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
