"""Import of the user's pipeline module, by name and not before it is needed."""

from __future__ import annotations

import importlib
from typing import Any

PIPELINE = "app.logic.pipeline"


def import_pipeline() -> Any:
    """The module with the user's functions; raises whatever importing it raises."""
    return importlib.import_module(PIPELINE)
