"""Origin of verify_input: the module from which pipeline.py imports it, read from the code without running it.

The api then imports that module alone, and not what `load_model`, `process` and `predict` need.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

_NAME = "verify_input"


def import_from_origin(pipeline: str) -> Any:
    """verify_input, for the name of the pipeline's module; None where that module has a function of its own."""
    found = origin(source_of(pipeline))
    if found is None:
        return None
    module, name = found
    return getattr(importlib.import_module(module, pipeline.rpartition(".")[0]), name)


def source_of(module: str) -> str:
    """The code of a module, which is not imported; empty where it cannot be read."""
    try:
        spec = importlib.util.find_spec(module)
        return (spec.loader.get_source(module) if spec and spec.loader else "") or ""  # type: ignore[attr-defined]
    except (ImportError, ValueError, AttributeError, OSError):
        return ""


def origin(source: str) -> tuple[str, str] | None:
    """The module, with leading dots where it is relative, and the name there; None unless one import at the top of
    the code is all that binds verify_input.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    if len(list(_bindings(tree))) != 1:
        return None
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == _NAME:
                    return "." * statement.level + (statement.module or ""), alias.name
    return None


def _bindings(tree: ast.AST) -> Iterator[ast.AST]:
    """Whatever binds the name, at any depth, or may do so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            is_bound = node.name == _NAME
        elif isinstance(node, ast.Name):
            is_bound = node.id == _NAME and not isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.alias):
            is_bound = (node.asname or node.name) in (_NAME, "*")
        else:
            is_bound = False
        if is_bound:
            yield node
