"""Rehearsal of new code before what runs is stopped: the pipeline, imported and checked beside the services."""

from __future__ import annotations

import json

from denzel.backends.base import Backend
from denzel.errors import CommandFailed, ServiceFailed
from denzel.services import Service

#: Exits with 0, or prints as its last line FAULT and JSON with `fault` and `hint`: app/serving/worker/model/check.py.
CHECK = ("python", "-m", "app.serving.worker.model.check")
FAULT = "pipeline fault: "

#: Python's message for the module that a project of an earlier release lacks.
_NO_CHECK = "No module named"

#: Lines of the program's output to show.
_TAIL = 20


def rehearse(backend: Backend) -> None:
    """Import the pipeline as the worker would if it was started now; raises ServiceFailed when that cannot use it."""
    try:
        backend.rehearse(Service.DENZEL, CHECK)
    except CommandFailed as error:
        *output, last = error.stderr.strip().splitlines() or [""]
        if last.startswith(FAULT):
            report = json.loads(last.removeprefix(FAULT))
            raise ServiceFailed(
                f"{report['fault'].removesuffix('.')}. Nothing was stopped.",
                hint=report["hint"],
                detail="\n".join(output[-_TAIL:]),
            ) from None
        if _NO_CHECK not in last or "app.serving" not in last:
            raise
