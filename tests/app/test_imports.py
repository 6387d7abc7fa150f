"""What each process of a project imports, and so holds in memory and waits for at its start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "denzel" / "templates" / "project"

#: The module that a process starts from, and what it must not have imported by then.
PROCESSES = {
    "app.worker_process": ("app.logic", "celery.bin", "flower", "tornado", "prompt_toolkit", "falcon", "numpy"),
    "app.monitor": ("app.logic", "app.worker", "app.tasks", "app.predictor", "app.claims", "falcon", "numpy"),
    "app.sidecar": ("app.logic", "app.tasks", "app.worker", "celery", "kombu", "billiard", "falcon", "requests"),
    "app.operations": ("app.logic", "celery", "kombu", "falcon"),
    "app.api": ("app.logic", "celery", "kombu", "requests", "numpy"),
}


@pytest.mark.parametrize("module", PROCESSES)
def test_a_process_imports_nothing_that_only_another_needs(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    imported = json.loads(done.stdout)
    unwanted = PROCESSES[module]
    assert [name for name in imported if any(name == one or name.startswith(f"{one}.") for one in unwanted)] == []
