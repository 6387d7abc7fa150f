"""Squares a number after a pause, and counts how often it was run, in logs/runs; blocked by a file logs/hold."""

import time
from pathlib import Path

HOLD, RUNS = Path("logs/hold"), Path("logs/runs")


def verify_input(request):
    """Check a request, {"number": N, "seconds": S}."""
    return {"number": int(request["number"]), "seconds": float(request["seconds"])}


def load_model():
    """There is no model."""


def process(model, request):
    """Leave the request as it is."""
    return request


def predict(model, request):
    """The number and its square, after the pause."""
    while HOLD.exists():
        time.sleep(0.05)
    time.sleep(request["seconds"])
    try:
        with RUNS.open("ab", buffering=0) as runs:
            runs.write(b"x")
    except OSError:
        # The disk is full, which is one of the faults.
        pass
    return {"number": request["number"], "square": request["number"] ** 2}
