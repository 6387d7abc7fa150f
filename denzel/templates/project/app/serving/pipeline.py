"""Import of the user's pipeline module, by name and not before it is needed; its names stand in for `__main__`'s."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from app.serving.contract import ContractError, check_functions
from app.serving.verify_origin import import_from_origin

PIPELINE = "app.logic.pipeline"


def import_pipeline() -> Any:
    """The module with the user's functions; raises whatever importing it raises, and ContractError.

    What a script pickled from its `__main__` is found in this module, also while that is imported.
    """
    main = sys.modules["__main__"]
    if "__getattr__" not in vars(main):
        vars(main)["__getattr__"] = _name_of_main
    pipeline = importlib.import_module(PIPELINE)
    try:
        check_functions(pipeline)
    except ContractError:
        # The next try reads the file again, which may be mended by then.
        sys.modules.pop(PIPELINE, None)
        raise
    _lend_globals(pipeline, main)
    return pipeline


def find_verify_input() -> Any:
    """The user's verify_input, from the module that pipeline.py has it from, if any; raises as `import_pipeline`."""
    verify_input = import_from_origin(PIPELINE)
    if verify_input is None:
        return import_pipeline().verify_input
    check_functions(SimpleNamespace(verify_input=verify_input), ("verify_input",))
    return verify_input


def _name_of_main(name: str) -> Any:
    """The pipeline's own, for a name that `__main__` lacks (PEP 562)."""
    pipeline = sys.modules.get(PIPELINE)
    if pipeline is None or (name.startswith("__") and name.endswith("__")) or name not in vars(pipeline):
        raise AttributeError(f"module '__main__' has no attribute {name!r}")
    return vars(pipeline)[name]


def _lend_globals(pipeline: ModuleType, main: ModuleType) -> None:
    """Give `__main__` the pipeline's names: dill runs functions of a script with the globals of `__main__`."""
    for name, value in vars(pipeline).items():
        if not (name.startswith("__") and name.endswith("__")):
            vars(main).setdefault(name, value)
