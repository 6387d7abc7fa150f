"""contract.py: the functions of pipeline.py, which are there, take what they are called with, and are not async."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from app.serving.contract import ContractError, check_functions, check_model

Function = Callable[..., Any]


def pipeline(**functions: Any) -> SimpleNamespace:
    """A pipeline that keeps the contract, but for these; None for one that is not there."""
    names = {
        "verify_input": lambda json_data: json_data,
        "load_model": lambda: None,
        "process": lambda model, json_data: json_data,
        "predict": lambda model, data: {},
        **functions,
    }
    return SimpleNamespace(**{name: value for name, value in names.items() if value is not None})


def violations(**functions: Any) -> str:
    with pytest.raises(ContractError) as caught:
        check_functions(pipeline(**functions))
    return str(caught.value)


def passed_on(function: Function) -> Function:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Model:
    def __call__(self, model: Any, data: Any) -> dict[str, Any]:
        return {}

    def method(self, model: Any, data: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def static(model: Any, data: Any) -> dict[str, Any]:
        return {}


class AsyncModel:
    async def __call__(self, model: Any, data: Any) -> dict[str, Any]:
        return {}


async def coroutine(model: Any, data: Any) -> dict[str, Any]:
    return {}


async def generator(model: Any, data: Any) -> AsyncIterator[int]:
    yield 1


def three(model: Any, data: Any, threshold: float) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    "predict",
    [
        lambda *arguments: {},
        lambda model, data, threshold=0.5: {},
        lambda model, data, *, threshold=0.5: {},
        lambda model, data, **options: {},
        lambda model, /, data: {},
        functools.partial(three, threshold=0.5),
        functools.partial(lambda device, model, data: {}, "cpu"),
        Model(),
        Model().method,
        Model.static,
        dict,
        max,
        passed_on(lambda model, data: {}),
        functools.cache(lambda model, data: {}),
        # A decorator that adds an argument.
        functools.wraps(three)(lambda *arguments: three(*arguments, 0.5)),
        (lambda model, data: (yield 1)),
    ],
)
def test_what_can_be_called_with_model_and_data_is_accepted(predict: Function) -> None:
    check_functions(pipeline(predict=predict))


@pytest.mark.parametrize(
    ("predict", "takes"),
    [
        (lambda data: {}, "(data)"),
        (object, "()"),
        (three, "(model: 'Any', data: 'Any', threshold: 'float')"),
        (lambda model, data, *, threshold: {}, "(model, data, *, threshold)"),
        (lambda *, model, data: {}, "(*, model, data)"),
        (functools.partial(lambda model, data: {}, "cpu"), "(data)"),
        (passed_on(lambda data: {}), "(data)"),
        (functools.cache(lambda data: {}), "(data)"),
        (Model.method, "(self, model: 'Any', data: 'Any')"),
    ],
)
def test_other_parameters_are_named_with_those_of_the_call(predict: Function, takes: str) -> None:
    assert violations(predict=predict).startswith(f"predict takes {takes}")
    assert violations(predict=predict).endswith(", and is called as predict(model, data)")


def as_run(function: Function) -> Function:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return asyncio.run(function(*arguments))

    return wrapper


@pytest.mark.parametrize(
    "predict",
    [
        coroutine,
        generator,
        AsyncModel(),
        AsyncModel().__call__,
        passed_on(coroutine),
        passed_on(generator),
        functools.partial(coroutine),
        functools.partial(passed_on(coroutine)),
        functools.cache(coroutine),
    ],
)
def test_an_asynchronous_function_is_refused_behind_whatever_wrapper(predict: Function) -> None:
    assert violations(predict=predict) == (
        "predict is asynchronous (async def), and is not awaited: it should be def predict(model, data)"
    )


def test_a_decorator_that_runs_a_coroutine_is_accepted() -> None:
    check_functions(pipeline(predict=as_run(coroutine)))


async def load_model() -> None:
    pass


@pytest.mark.parametrize("load", [load_model, lambda: load_model()])
def test_a_model_that_is_a_coroutine_is_refused(load: Function) -> None:
    with pytest.raises(ContractError, match="load_model is asynchronous"):
        check_model(load())


def test_everything_that_is_wrong_is_named_at_once() -> None:
    found = violations(
        verify_input=5, load_model=load_model, process=lambda json_data: json_data, predict=None, predicts=three
    )
    assert found.split("; ") == [
        "verify_input is not a function but of type int: it should be verify_input(json_data)",
        "load_model is asynchronous (async def), and is not awaited: it should be def load_model()",
        "process takes (json_data), and is called as process(model, json_data)",
        "predict(model, data) is missing (predicts: did you mean predict?)",
    ]


@pytest.mark.parametrize(
    ("name", "misspelt"),
    [
        ("verify_input", "verify_inputs"),
        ("verify_input", "verifyInput"),
        ("verify_input", "Verify_Input"),
        ("load_model", "load_modle"),
        ("process", "proces"),
        ("predict", "prediction"),
    ],
)
def test_a_misspelt_function_is_found(name: str, misspelt: str) -> None:
    assert f"({misspelt}: did you mean {name}?)" in violations(**{name: None, misspelt: lambda: None})


def test_nothing_is_suggested_that_is_not_alike() -> None:
    assert violations(predict=None, evaluate=lambda model, data: {}) == "predict(model, data) is missing"


def test_predict_batch_takes_the_place_of_predict() -> None:
    check_functions(pipeline(predict=None, predict_batch=lambda model, list_of_data: []))
    assert violations(predict_batch=lambda list_of_data: []) == (
        "predict_batch takes (list_of_data), and is called as predict_batch(model, list_of_data)"
    )


def test_only_process_and_predict_may_be_generators() -> None:
    def pieces(model: Any, data: Any) -> Iterator[Any]:
        yield data

    def verify_input(json_data: Any) -> Iterator[Any]:
        yield json_data

    check_functions(pipeline(process=pieces, predict=pieces))
    assert violations(verify_input=verify_input, predict_batch=pieces) == (
        "verify_input is a generator (it has a yield): it should return its value; "
        "predict_batch is a generator (it has a yield): it should return its value"
    )
