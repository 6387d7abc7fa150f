"""Import of the user's pipeline module, by name and not before it is needed."""

from __future__ import annotations

import importlib
from typing import Any

from app.serving.verify_origin import import_from_origin

PIPELINE = "app.logic.pipeline"


def import_pipeline() -> Any:
    """The module with the user's functions; raises whatever importing it raises."""
    return importlib.import_module(PIPELINE)


def find_verify_input() -> Any:
    """The user's verify_input, from the module that pipeline.py has it from, if any; raises as `import_pipeline`."""
    return import_from_origin(PIPELINE) or import_pipeline().verify_input
