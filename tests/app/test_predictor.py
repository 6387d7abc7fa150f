"""app/predictor.py: loading the model until it works, and calling the user's functions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.json_values import NotJson
from app.predictor import Predictor, WrongResult, describe


def pipeline(
    *,
    load_model: Callable[[], Any] = lambda: "the model",
    process: Callable[[Any, Any], Any] = lambda model, json_data: json_data,
    predict: Callable[[Any, Any], Any] = lambda model, data: {"model": model, "data": data},
) -> SimpleNamespace:
    return SimpleNamespace(load_model=load_model, process=process, predict=predict)


def loaded(**functions: Callable[..., Any]) -> Predictor:
    predictor = Predictor(lambda: pipeline(**functions))
    predictor.load(pytest.fail, sleep=pytest.fail)
    return predictor


class FailsAtFirst:
    """Raises these exceptions, one for each call; then returns the value."""

    def __init__(self, *errors: Exception, then: Any) -> None:
        self._errors = list(errors)
        self._then = then

    def __call__(self) -> Any:
        if self._errors:
            raise self._errors.pop(0)
        return self._then


def test_the_model_and_the_input_reach_the_users_functions() -> None:
    predictor = loaded(
        process=lambda model, json_data: (model, json_data, "processed"),
        predict=lambda model, data: {"got": [model, *data]},
    )
    assert predictor.predict({"x": 1}) == {"got": ["the model", "the model", {"x": 1}, "processed"]}


def test_the_model_is_loaded_once_for_many_predictions() -> None:
    loads = []
    predictor = loaded(load_model=lambda: loads.append("one"))
    for _ in range(3):
        predictor.predict({})
    assert loads == ["one"]


def test_nothing_of_the_users_is_imported_before_load() -> None:
    imports: list[str] = []

    def import_pipeline() -> SimpleNamespace:
        imports.append("one")
        return pipeline()

    predictor = Predictor(import_pipeline)
    assert imports == []
    predictor.load(pytest.fail)
    assert imports == ["one"]


def test_load_model_is_tried_again_until_it_works() -> None:
    errors = [FileNotFoundError(2, "No such file", "./model.pkl"), ValueError("truncated")]
    failures: list[str] = []
    pauses: list[float] = []
    predictor = Predictor(lambda: pipeline(load_model=load_model))
    load_model = FailsAtFirst(*errors, then="the model")
    predictor.load(failures.append, sleep=pauses.append)
    assert failures == ["FileNotFoundError: [Errno 2] No such file: './model.pkl'", "ValueError: truncated"]
    assert pauses == [5, 10]
    assert predictor.predict(1) == {"model": "the model", "data": 1}


def test_pauses_grow_to_a_minute_and_no_further() -> None:
    pauses: list[float] = []
    load_model = FailsAtFirst(*(OSError() for _ in range(7)), then=None)
    Predictor(lambda: pipeline(load_model=load_model)).load(lambda cause: None, sleep=pauses.append)
    assert pauses == [5, 10, 20, 40, 60, 60, 60]


def test_a_failure_is_reported_before_the_pause() -> None:
    seen: list[str] = []
    load_model = FailsAtFirst(ValueError("no"), then=None)
    Predictor(lambda: pipeline(load_model=load_model)).load(seen.append, sleep=lambda pause: seen.append("pause"))
    assert seen == ["ValueError: no", "pause"]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ModuleNotFoundError("No module named 'sklearn'"), "ModuleNotFoundError: No module named 'sklearn'"),
        (
            SyntaxError("invalid syntax", ("pipeline.py", 3, 1, "def", 3, 2)),
            "SyntaxError: invalid syntax (pipeline.py, line 3)",
        ),
        (AttributeError("no load_model"), "AttributeError: no load_model"),
    ],
)
def test_a_pipeline_that_cannot_be_imported_is_reported_and_tried_again(error: Exception, cause: str) -> None:
    failures: list[str] = []
    predictor = Predictor(FailsAtFirst(error, then=pipeline()))
    predictor.load(failures.append, sleep=lambda pause: None)
    assert failures == [cause]
    assert predictor.predict(1) == {"model": "the model", "data": 1}


def test_the_traceback_of_a_failure_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def load_model() -> Any:
        return failing()

    failing = FailsAtFirst(ValueError("the reason"), then=None)
    Predictor(lambda: pipeline(load_model=load_model)).load(lambda cause: None, sleep=lambda pause: None)
    assert "load_model failed; next try in 5 s" in caplog.text
    assert "Traceback" in caplog.text
    assert "in load_model" in caplog.text


def test_loading_says_how_long_it_took(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        loaded()
    assert "model loaded in 0.0 s" in caplog.messages


def test_ctrl_c_while_loading_is_not_a_failure_to_load() -> None:
    def load_model() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Predictor(lambda: pipeline(load_model=load_model)).load(pytest.fail, sleep=pytest.fail)


def test_a_result_of_numpy_is_answered_as_json_values() -> None:
    predictor = loaded(predict=lambda model, data: dict(zip(["a", "b"], np.array(["x", "y"]), strict=True)))
    result = predictor.predict({})
    assert result == {"a": "x", "b": "y"}
    assert {type(value) for value in result.values()} == {str}


@pytest.mark.parametrize(
    ("result", "kind"),
    [(None, "NoneType"), ([1], "list"), ("text", "str"), (1, "int"), (np.array([1]), "ndarray"), ((1,), "tuple")],
)
def test_a_result_that_is_no_dict_fails_by_its_type(result: Any, kind: str) -> None:
    with pytest.raises(WrongResult) as failed:
        loaded(predict=lambda model, data: result).predict({})
    assert str(failed.value) == f"predict returned a {kind}; it must return a dict"


def test_a_result_that_json_cannot_say_fails_by_its_path() -> None:
    class Figure:
        pass

    with pytest.raises(NotJson) as failed:
        loaded(predict=lambda model, data: {"a123": [0, 1, Figure()]}).predict({})
    assert str(failed.value) == 'result["a123"][2] is a Figure: not JSON serialisable'


@pytest.mark.parametrize("name", ["process", "predict"])
def test_what_the_pipeline_raises_is_raised_as_it_is(name: str) -> None:
    class OfTheUser(Exception):
        pass

    def fail(model: Any, data: Any) -> Any:
        raise OfTheUser("no")

    with pytest.raises(OfTheUser, match=r"^no$"):
        loaded(**{name: fail}).predict({})


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_an_exception_is_described_on_one_line(error: Exception, line: str) -> None:
    assert describe(error) == line
