"""Check of the user's pipeline without a service: `python -m app.serving.worker.model.check`."""

from __future__ import annotations

import json
import logging
import os
import sys

from app.serving.contract import ContractError
from app.serving.errors import describe
from app.serving.logs.tracebacks import traceback_text
from app.serving.pipeline import import_pipeline
from app.serving.worker.model.hints.failure_hint import failure_hint

#: What the last line on the standard error begins with, when the pipeline cannot be used: JSON follows it.
FAULT = "pipeline fault: "


def main() -> int:
    """Import the pipeline and check its functions; returns the exit code, and prints why it is not 0."""
    # As in a service: what is logged while it is imported is shown.
    logging.basicConfig(level=logging.INFO)
    try:
        import_pipeline()
    except (Exception, SystemExit) as error:  # noqa: BLE001 (the user's own code)
        if isinstance(error, ContractError):
            fault = f"pipeline.py cannot be used: {error}"
        else:
            sys.stderr.write(f"{traceback_text(error)}\n")
            fault = f"pipeline.py cannot be imported: {describe(error)}"
        sys.stderr.write(f"{FAULT}{json.dumps({'fault': fault, 'hint': failure_hint(error)})}\n")
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The pipeline may have started threads that go on.
    os._exit(code)
