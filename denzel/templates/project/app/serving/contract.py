"""Contract of the pipeline: the functions that are called, with which parameters, and by no event loop."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

#: The functions of pipeline.py, each with the parameters that it is called with, by position.
FUNCTIONS = {
    "verify_input": ("json_data",),
    "load_model": (),
    "process": ("model", "json_data"),
    "predict": ("model", "data"),
}

#: Called in place of `predict`, which may then be left out.
BATCH = "predict_batch"
BATCH_PARAMETERS = ("model", "list_of_data")

# What these return is used as it is: a generator would fail every request.
_NO_GENERATORS = ("verify_input", BATCH)

#: A name in a decorator's code with which it may await what it decorates: `asyncio.run`, `run_until_complete`,
#: `async_to_sync`, `future.result`.
_AWAITS = re.compile("run|sync|loop|wait|result|portal|block|future|thread|send")


class ContractError(Exception):
    """Functions of pipeline.py cannot be called as they are; the message names each, what it takes and should take."""


def check_functions(pipeline: Any, names: Collection[str] = tuple(FUNCTIONS)) -> None:
    """Raise ContractError, which lists everything that is wrong with these functions of the module."""
    found = list(_violations(pipeline, names))
    if found:
        raise ContractError("; ".join(found))


def check_model(model: Any) -> Any:
    """The model; raises ContractError when load_model turns out to be asynchronous, behind whatever decorator."""
    if inspect.iscoroutine(model):
        model.close()
    if inspect.iscoroutine(model) or inspect.isasyncgen(model):
        raise ContractError(_asynchronous("load_model", ()))
    return model


def _violations(pipeline: Any, names: Collection[str]) -> Iterator[str]:
    called = {name: FUNCTIONS[name] for name in names}
    if hasattr(pipeline, BATCH):
        del called["predict"]
        called[BATCH] = BATCH_PARAMETERS
    for name, parameters in called.items():
        if not hasattr(pipeline, name):
            yield f"{_call(name, parameters)} is missing{_suggestion(pipeline, name)}"
            continue
        function = getattr(pipeline, name)
        if not callable(function):
            kind = type(function).__name__
            yield f"{name} is not a function but of type {kind}: it should be {_call(name, parameters)}"
            continue
        signature = _refusing_signature(function, len(parameters))
        if signature is not None:
            yield f"{name} takes {signature}, and is called as {_call(name, parameters)}"
        if _is_asynchronous(function):
            yield _asynchronous(name, parameters)
        if name in _NO_GENERATORS and inspect.isgeneratorfunction(function):
            yield f"{name} is a generator (it has a yield): it should return its value"


def _call(name: str, parameters: tuple[str, ...]) -> str:
    return f"{name}({', '.join(parameters)})"


def _asynchronous(name: str, parameters: tuple[str, ...]) -> str:
    return f"{name} is asynchronous (async def), and is not awaited: it should be def {_call(name, parameters)}"


def _suggestion(pipeline: Any, name: str) -> str:
    """A function of the module that is called nearly so."""
    others = {
        other.casefold().replace("_", ""): other
        for other, value in vars(pipeline).items()
        if callable(value) and other not in FUNCTIONS and not other.startswith("__")
    }
    near = difflib.get_close_matches(name.replace("_", ""), others, n=1, cutoff=0.75)
    return f" ({others[near[0]]}: did you mean {name}?)" if near else ""


def _refusing_signature(function: Callable[..., Any], count: int) -> str | None:
    """The signature of a function that cannot be called with so many arguments; None when it can be, or is unknown."""
    try:
        outer = inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):
        # Of a builtin, or of a decorator in C, as functools.cache.
        outer = None
    if outer is not None and not _accepts(outer, count):
        return str(outer)
    try:
        inner = inspect.signature(function)
    except (ValueError, TypeError):
        return None
    # A decorator that takes everything may add arguments of its own, and rarely takes some away.
    takes_too_few = not _accepts(inner, count) and not _requires_more(inner, count)
    return str(inner) if takes_too_few or (outer is None and not _accepts(inner, count)) else None


def _accepts(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _requires_more(signature: inspect.Signature, count: int) -> bool:
    """True when the function could take so many arguments if it got others beside."""
    positional = [
        one for one in signature.parameters.values() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    is_open = any(one.kind is one.VAR_POSITIONAL for one in signature.parameters.values())
    return is_open or len(positional) >= count


def _is_asynchronous(function: Any) -> bool:
    while True:
        # Of an instance, what a call of it runs.
        if _makes_awaitable(function) or _makes_awaitable(vars(type(function)).get("__call__")):
            return True
        if isinstance(function, functools.partial | functools.partialmethod):
            function = function.func
        elif hasattr(function, "__wrapped__") and not _may_await(function):
            function = function.__wrapped__
        else:
            return False


def _makes_awaitable(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _may_await(decorator: Any) -> bool:
    """True for a decorator that may run what it decorates on an event loop: an object, or a function that names one."""
    code = getattr(decorator, "__code__", None)
    if code is None:
        # functools.cache keeps what it decorates returned, and other objects may do anything.
        return not hasattr(decorator, "cache_info")
    return any(_AWAITS.search(name.casefold()) for name in code.co_names)
