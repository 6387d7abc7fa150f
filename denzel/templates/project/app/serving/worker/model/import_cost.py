"""Cost of importing the pipeline, for the warning that the api pays it as well."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from app.serving.memory import memory_mb
from app.serving.pipeline import PIPELINE
from app.serving.verify_origin import origin, source_of
from app.serving.worker.model.load_warnings import LoadWarnings

log = logging.getLogger(__name__)

#: Megabytes from which the import is worth a warning: pandas takes more, NumPy less.
MIN_MB = 50


def import_measured(import_pipeline: Callable[[], Any], warned: LoadWarnings) -> Any:
    """The pipeline; with a warning where importing it takes much memory, and the api imports it too."""
    began, held = time.monotonic(), memory_mb()
    pipeline = import_pipeline()
    seconds, grown = time.monotonic() - began, memory_mb() - held
    if grown >= MIN_MB and origin(source_of(PIPELINE)) is None:
        text = (
            f"importing pipeline.py took {seconds:.1f} s and {grown:.0f} MB, in each process of the api too, for "
            f"verify_input alone. Move that to app/logic/verify.py, and write in pipeline.py: from app.logic.verify "
            f"import verify_input"
        )
        log.warning(text)
        warned.add(text)
    return pipeline
