"""Names that the pipeline may import of denzel, loaded when they are: `from app.serving import BadInput`."""

from __future__ import annotations

import importlib

# As in typing, which the supervisor, for its size, does not import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from app.serving.errors import BadInput
    from app.serving.running_task import current_task, progress

__all__ = ["BadInput", "current_task", "progress"]

_MODULES = {
    "BadInput": "app.serving.errors",
    "current_task": "app.serving.running_task",
    "progress": "app.serving.running_task",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
