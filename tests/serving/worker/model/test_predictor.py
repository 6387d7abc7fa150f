"""predictor.py: loading the model until it works, and calling the user's functions."""

from __future__ import annotations

import dataclasses
import json
import logging
import logging.config
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from app.serving.errors import describe
from app.serving.json_values import NotJson
from app.serving.logs.current import logged_as
from app.serving.running_task import set_reporter
from app.serving.worker.model.predictor import Predictor, WrongCount, WrongResult


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


def test_warnings_of_a_load_are_kept_once_and_in_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(str(message)))
    attempts = []

    def load_model() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            warnings.warn("of the first\n   attempt", UserWarning, stacklevel=1)
            raise FileNotFoundError
        for number in range(7):
            warnings.warn(f"{number}{'x' * 1000}", FutureWarning, stacklevel=1)
        warnings.warn("of the first\n   attempt", UserWarning, stacklevel=1)
        warnings.warn("for developers", DeprecationWarning, stacklevel=1)
        logging.getLogger("a.library").warning("some weights are %s", "new")
        logging.getLogger("a.library").info("loaded")
        logging.getLogger("app.serving.store").warning("of denzel")

    predictor = Predictor(lambda: pipeline(load_model=load_model))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(str(message)))
        predictor.load(lambda cause, hint: None, sleep=lambda seconds: None)
        warnings.warn("after the load", UserWarning, stacklevel=1)
    kept = json.loads(predictor.warnings)
    assert kept["shown"][:2] == ["UserWarning: of the first attempt", f"FutureWarning: 0{'x' * 1000}"[:297] + "..."]
    assert (len(kept["shown"]), kept["more"]) == (5, 4)
    assert shown[-2:] == ["for developers", "after the load"]
    assert len(shown) == 11


def test_a_pipeline_that_configures_logging_does_not_silence_denzel(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = logging.getLogger("app.serving.worker"), logging.getLogger("a.library")
    attempts = []

    def load_model() -> None:
        attempts.append(1)
        logging.config.dictConfig({"version": 1})
        if len(attempts) == 1:
            raise ValueError("weights are missing")

    try:
        Predictor(lambda: pipeline(load_model=load_model)).load(lambda *_: None, sleep=lambda seconds: None)
        assert not ours.disabled
        assert theirs.disabled
        assert "load_model failed" in caplog.text
    finally:
        for logger in logging.Logger.manager.loggerDict.values():
            if isinstance(logger, logging.Logger):
                logger.disabled = False


def test_a_load_without_warnings_has_none() -> None:
    assert loaded().warnings == ""


def test_load_model_is_tried_again_until_it_works() -> None:
    errors = [FileNotFoundError(2, "No such file", "./model.pkl"), ValueError("truncated")]
    failures: list[str] = []
    pauses: list[float] = []
    predictor = Predictor(lambda: pipeline(load_model=load_model))
    load_model = FailsAtFirst(*errors, then="the model")
    predictor.load(lambda cause, hint: failures.append(cause), sleep=pauses.append)
    assert failures == ["FileNotFoundError: [Errno 2] No such file: './model.pkl'", "ValueError: truncated"]
    assert pauses == [5, 10]
    assert predictor.predict(1) == {"model": "the model", "data": 1}


def test_pauses_grow_to_a_minute_and_no_further() -> None:
    pauses: list[float] = []
    load_model = FailsAtFirst(*(OSError() for _ in range(7)), then=None)
    Predictor(lambda: pipeline(load_model=load_model)).load(lambda cause, hint: None, sleep=pauses.append)
    assert pauses == [5, 10, 20, 40, 60, 60, 60]


def test_a_failure_is_reported_before_the_pause() -> None:
    seen: list[str] = []
    load_model = FailsAtFirst(ValueError("no"), then=None)
    Predictor(lambda: pipeline(load_model=load_model)).load(
        lambda cause, hint: seen.append(cause), sleep=lambda pause: seen.append("pause")
    )
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
    predictor.load(lambda cause, hint: failures.append(cause), sleep=lambda pause: None)
    assert failures == [cause]
    assert predictor.predict(1) == {"model": "the model", "data": 1}


def test_the_traceback_of_a_failure_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def load_model() -> Any:
        return failing()

    failing = FailsAtFirst(ValueError("the reason"), then=None)
    Predictor(lambda: pipeline(load_model=load_model)).load(lambda cause, hint: None, sleep=lambda pause: None)
    assert "load_model failed; next try in 5 s" in caplog.text
    assert "Traceback" in caplog.text
    assert "in load_model" in caplog.text


def test_the_log_has_the_seconds_that_loading_took(caplog: pytest.LogCaptureFixture) -> None:
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
    [
        ("text", "str"),
        (1, "int"),
        (0.5, "float"),
        (np.float64(0.5), "float64"),
        (np.array(1), "ndarray"),
        (b"", "bytes"),
    ],
)
def test_a_result_that_is_a_single_value_fails_by_its_type(result: Any, kind: str) -> None:
    with pytest.raises(WrongResult) as failed:
        loaded(predict=lambda model, data: result).predict({})
    assert str(failed.value) == f"predict returned a {kind}; it must return a dict, a list or a table"


def test_a_function_without_a_return_is_named() -> None:
    with pytest.raises(WrongResult, match=r"^predict returned None; it must return a dict\. Does it lack a return\?$"):
        loaded(predict=lambda model, data: None).predict({})


@dataclasses.dataclass
class Flower:
    petals: Any


@pytest.mark.parametrize(
    ("result", "values"),
    [
        ([1], [1]),
        ((1,), [1]),
        (np.array([[1.5]]), [[1.5]]),
        (Flower(np.int64(5)), {"petals": 5}),
        (pd.DataFrame({"a": [1, 2]}), [{"a": 1}, {"a": 2}]),
        (pd.Series([0.5], index=["a"]), {"a": 0.5}),
    ],
)
def test_a_result_is_what_the_json_form_of_an_object_is(result: Any, values: Any) -> None:
    assert loaded(predict=lambda model, data: result).predict({}) == values


def test_a_result_that_json_cannot_hold_fails_by_its_path() -> None:
    class Figure:
        pass

    with pytest.raises(NotJson) as failed:
        loaded(predict=lambda model, data: {"a123": [0, 1, Figure()]}).predict({})
    assert str(failed.value).startswith('result["a123"][2] is a Figure: not JSON serialisable')


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


# Several tasks at once.


def batching(predict_batch: Callable[[Any, list[Any]], Any], **functions: Callable[..., Any]) -> Predictor:
    users = pipeline(**functions)
    users.predict_batch = predict_batch
    predictor = Predictor(lambda: users)
    predictor.load(pytest.fail, sleep=pytest.fail)
    return predictor


def inverses(model: Any, batch: list[float]) -> list[dict[str, float]]:
    return [{"inverse": 1 / one} for one in batch]


def described(results: list[Any]) -> list[Any]:
    return [describe(one) if isinstance(one, BaseException) else one for one in results]


def test_a_pipeline_with_predict_batch_predicts_batches() -> None:
    assert batching(inverses).predicts_batches
    assert not loaded().predicts_batches


def test_a_batch_is_predicted_in_one_call_and_each_input_gets_its_own_result() -> None:
    calls = []

    def predict_batch(model: Any, batch: list[int]) -> list[dict[str, int]]:
        calls.append(list(batch))
        return [{"squared": one**2} for one in batch]

    predictor = batching(predict_batch, process=lambda model, json_data: json_data + 1)
    assert predictor.predict_batch([1, 2, 3]) == [{"squared": 4}, {"squared": 9}, {"squared": 16}]
    assert calls == [[2, 3, 4]]


def test_a_single_task_goes_through_predict_batch_too() -> None:
    assert batching(inverses).predict(4) == {"inverse": 0.25}
    with pytest.raises(ZeroDivisionError):
        batching(inverses).predict(0)


def test_an_input_that_process_refuses_fails_alone_and_never_reaches_the_model() -> None:
    def process(model: Any, json_data: float) -> float:
        if json_data < 0:
            raise ValueError("negative")
        return json_data

    assert described(batching(inverses, process=process).predict_batch([1, -1, 2])) == [
        {"inverse": 1.0},
        "ValueError: negative",
        {"inverse": 0.5},
    ]


def test_when_predict_batch_raises_each_input_is_tried_alone() -> None:
    assert described(batching(inverses).predict_batch([1, 0, 2])) == [
        {"inverse": 1.0},
        "ZeroDivisionError: division by zero",
        {"inverse": 0.5},
    ]


@pytest.mark.parametrize(
    ("size", "inputs", "counts"),
    [
        (0, [1, 2], "0 results for 2 inputs"),
        (1, [1, 2], "1 result for 2 inputs"),
        (3, [1, 2], "3 results for 2 inputs"),
        (0, [1], "0 results for 1 input"),
        (2, [1], "2 results for 1 input"),
    ],
)
def test_a_wrong_number_of_results_fails_the_batch(size: int, inputs: list[int], counts: str) -> None:
    results = batching(lambda model, batch: [{"whose": "?"}] * size).predict_batch(inputs)
    assert all(isinstance(one, WrongCount) for one in results)
    error = f"WrongCount: predict_batch returned {counts}; it must return one for each"
    assert described(results) == [error] * len(inputs)


@pytest.mark.parametrize("returned", [{"a": 1, "b": 2}, "ab", None, 7])
def test_what_is_no_list_fails_the_batch(returned: object) -> None:
    results = batching(lambda model, batch: returned).predict_batch([1, 2])
    kind = type(returned).__name__
    assert described(results) == [f"WrongCount: predict_batch returned a {kind}; it must return a list of results"] * 2


def test_a_single_value_and_a_result_that_is_no_json_fail_alone() -> None:
    results = batching(lambda model, batch: [{"a": np.int64(1)}, 2, {"a": object()}]).predict_batch([1, 2, 3])
    assert described(results) == [
        {"a": 1},
        "WrongResult: predict_batch returned a int; it must return a dict, a list or a table",
        'NotJson: result["a"] is a object: not JSON serialisable (str(), or a dict of what it holds would help)',
    ]


def test_a_user_may_return_a_tuple_and_may_change_the_list_that_they_got() -> None:
    def predict_batch(model: Any, batch: list[int]) -> tuple[dict[str, int], ...]:
        results = tuple({"same": one} for one in batch)
        batch.clear()
        return results

    assert batching(predict_batch).predict_batch([1, 2]) == [{"same": 1}, {"same": 2}]


def test_whatever_goes_wrong_nobody_gets_the_result_of_another() -> None:
    """Random batches in which inputs are bad in every way, over a pipeline that fails at random too."""
    chance = random.Random(5)

    def process(model: Any, json_data: dict[str, Any]) -> dict[str, Any]:
        if json_data["kind"] == "refused":
            raise ValueError(f"refused {json_data['id']}")
        return json_data

    def predict_batch(model: Any, batch: list[dict[str, Any]]) -> Any:
        bad = [one for one in batch if one["kind"] == "raises"]
        if bad:
            raise RuntimeError(f"raised by {bad[0]['id']}")
        results: list[Any] = [one["id"] if one["kind"] == "no dict" else {"id": one["id"]} for one in batch]
        miscount = chance.choice(["none"] * 8 + ["short", "long", "empty"])
        return {"none": results, "short": results[:-1], "long": [*results, {"id": "nobody"}], "empty": []}[miscount]

    predictor = batching(predict_batch, process=process)
    kinds = ["good"] * 6 + ["refused", "raises", "no dict"]
    for _ in range(2000):
        inputs = [{"id": number, "kind": chance.choice(kinds)} for number in range(chance.randint(1, 12))]
        results = predictor.predict_batch(inputs)
        assert len(results) == len(inputs)
        for one, result in zip(inputs, results, strict=True):
            if isinstance(result, WrongCount):
                continue
            if one["kind"] == "good":
                assert result == {"id": one["id"]}
            elif one["kind"] == "no dict":
                assert isinstance(result, WrongResult)
            else:
                assert str(result).endswith(f" {one['id']}")


# Generators


class Reported:
    """Keeps what was reported of the task `a`, as its process does."""

    def __init__(self) -> None:
        self.outputs: list[str] = []

    def progress(self, task_ids: Sequence[str], fraction: float | None, message: str) -> None:
        raise AssertionError("nobody reports progress")

    def output(self, task_ids: Sequence[str], text: str) -> None:
        self.outputs.append(text)


@pytest.fixture
def reported() -> Iterator[Reported]:
    reporter = Reported()
    set_reporter(reporter)
    with logged_as("a"):
        yield reporter
    set_reporter(None)


def words(model: Any, data: Any) -> Iterator[Any]:
    yield from ("the", np.float32(0.5), {"é": (1, None)})


def test_what_predict_yields_is_reported_as_it_comes_and_is_the_result(reported: Reported) -> None:
    seen: list[int] = []

    def predict(model: Any, data: Any) -> Iterator[Any]:
        for value in words(model, data):
            seen.append(len(reported.outputs))
            yield value

    assert loaded(predict=predict).predict({}) == {"output": ["the", 0.5, {"é": [1, None]}]}
    assert reported.outputs == ['"the"', "0.5", '{"é": [1, null]}']
    assert seen == [0, 1, 2]


def test_what_a_generator_returns_is_the_result(reported: Reported) -> None:
    def predict(model: Any, data: Any) -> Any:
        yield 1
        return {"n": np.int64(2)}

    assert loaded(predict=predict).predict({}) == {"n": 2}
    assert reported.outputs == ["1"]


@pytest.mark.parametrize(
    "iterator",
    [lambda: (number for number in range(2)), lambda: iter([0, 1]), lambda: map(int, "01")],
    ids=["expression", "iterator", "map"],
)
def test_any_iterator_is_taken_as_a_generator(iterator: Callable[[], Any], reported: Reported) -> None:
    assert loaded(predict=lambda model, data: iterator()).predict({}) == {"output": [0, 1]}
    assert reported.outputs == ["0", "1"]


def test_a_generator_that_yields_nothing_has_no_output(reported: Reported) -> None:
    assert loaded(predict=lambda model, data: iter(())).predict({}) == {"output": []}
    assert reported.outputs == []


def test_a_value_that_is_not_json_is_named_and_ends_the_generator(reported: Reported) -> None:
    closed: list[bool] = []

    def predict(model: Any, data: Any) -> Iterator[Any]:
        try:
            yield from ("good", {"bad": [object()]})
        finally:
            closed.append(True)

    with pytest.raises(NotJson, match=r'^output\[1\]\["bad"\]\[0\] is '):
        loaded(predict=predict).predict({})
    assert (reported.outputs, closed) == (['"good"'], [True])


def test_what_a_generator_raises_is_raised(reported: Reported) -> None:
    def predict(model: Any, data: Any) -> Iterator[Any]:
        yield 1
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        loaded(predict=predict).predict({})


def test_a_generator_must_not_return_a_single_value(reported: Reported) -> None:
    def predict(model: Any, data: Any) -> Any:
        yield 1
        return 1

    with pytest.raises(WrongResult, match="predict returned a int; it must return a dict, a list or a table"):
        loaded(predict=predict).predict({})


def test_a_batch_cannot_be_a_generator() -> None:
    functions = {**vars(pipeline()), "predict_batch": lambda model, many: ({} for _ in many)}
    predictor = Predictor(lambda: SimpleNamespace(**functions))
    predictor.load(pytest.fail)
    (error,) = predictor.predict_batch([1])
    assert isinstance(error, WrongCount)
    assert str(error) == "predict_batch is a generator; only predict can be one. Return a list of results"
