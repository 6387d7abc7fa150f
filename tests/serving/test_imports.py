"""Imports of each process of a project, which cost memory and time at its start."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.paths import PROJECT

#: The module that a process starts from, and what it must not have imported by then.
PROCESSES = {
    "app.serving.supervisor.__main__": (
        *("app.logic", "app.serving.settings", "app.serving.store", "app.serving.worker", "celery", "redis"),
        *("argparse", "dataclasses", "logging", "socket", "subprocess", "threading", "typing"),
    ),
    "app.serving.worker.__main__": (
        "app.logic",
        "celery.bin",
        "flower",
        "tornado",
        "prompt_toolkit",
        "falcon",
        "numpy",
    ),
    "app.serving.monitor.__main__": (
        "app.logic",
        "app.serving.worker",
        "app.tasks",
        "app.serving.store.claims",
        "falcon",
        "numpy",
    ),
    "app.serving.callbacks.__main__": (
        "app.logic",
        "app.tasks",
        "app.serving.worker",
        "celery",
        "kombu",
        "falcon",
        "requests",
    ),
    "app.serving.admin": ("app.logic", "celery", "kombu", "falcon"),
    "app.serving.api.app": ("app.logic", "app.serving.worker", "celery", "kombu", "requests", "numpy"),
}


@pytest.mark.parametrize("module", PROCESSES)
def test_a_process_imports_nothing_that_only_another_needs(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    imported = json.loads(done.stdout)
    unwanted = PROCESSES[module]
    assert [name for name in imported if any(name == one or name.startswith(f"{one}.") for one in unwanted)] == []
