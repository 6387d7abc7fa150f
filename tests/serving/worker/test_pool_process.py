"""pool_process.py: exit of a pool process with its worker."""

from __future__ import annotations

import subprocess
import sys

from support.paths import PROJECT

WORKER = """
import os, time
from app.serving.worker import pool_process
pool_process.PARENT_CHECK_INTERVAL = 0.05
if os.fork():
    time.sleep(60)
pool_process.exit_with_worker()
print("loading", flush=True)
time.sleep(5)
print("outlived")
"""


def test_a_process_exits_with_its_worker_on_any_system() -> None:
    """On Linux, Celery's process would be killed by the kernel too."""
    with subprocess.Popen([sys.executable, "-c", WORKER], cwd=PROJECT, stdout=subprocess.PIPE) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == b"loading\n"
        worker.kill()
        assert worker.stdout.read() == b""
