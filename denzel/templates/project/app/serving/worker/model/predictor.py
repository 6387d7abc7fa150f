"""The user's pipeline in a process that predicts: loaded once, then called for each task or batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from app.serving.backoff import pauses
from app.serving.contract import check_model
from app.serving.errors import describe
from app.serving.json_values import json_text, json_values
from app.serving.logs.current import logged_as
from app.serving.logs.lines import enable_own_log
from app.serving.pipeline import import_pipeline
from app.serving.running_task import report_output
from app.serving.worker.model.hints.failure_hint import failure_hint
from app.serving.worker.model.import_cost import import_measured
from app.serving.worker.model.load_warnings import LoadWarnings, collected_in

log = logging.getLogger(__name__)

#: What a task results in, as JSON values.
JsonResult = dict[str, Any] | list[Any]


class WrongResult(TypeError):
    """`predict` returned a single value, or none; or `predict_batch` something else than a list."""


class WrongCount(WrongResult):
    """`predict_batch` returned more or fewer results than there were inputs, or no list: whose they are is unknown."""


class Predictor:
    """The pipeline and its model. Nothing of the user's is imported before `load`."""

    def __init__(self, import_pipeline: Callable[[], Any] = import_pipeline) -> None:
        self._import_pipeline = import_pipeline
        self._pipeline: Any = None
        self._model: Any = None
        #: True once `load` has returned, be it before this process was forked.
        self.loaded = False
        #: What load_model warned of, as in LoadWarnings.
        self.warnings = ""

    def load(self, report_failure: Callable[[str, str], None], *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Import the pipeline and load its model, however long that takes.

        A failure is reported with its cause and a hint, and tried again, after 5 s at first and 60 s in the end: a
        missing file may still come. Tasks wait in the queue meanwhile.
        """
        warned = LoadWarnings()
        for pause in pauses(5, 60):
            started = time.monotonic()
            try:
                self._load_once(warned)
            except (Exception, SystemExit) as error:
                log.exception("load_model failed; next try in %d s", pause)
                report_failure(describe(error), failure_hint(error))
                sleep(pause)
            else:
                log.info("model loaded in %.1f s", time.monotonic() - started)
                self.warnings = warned.as_json()
                self.loaded = True
                return

    def _load_once(self, warned: LoadWarnings) -> None:
        try:
            with collected_in(warned), logged_as():
                self._pipeline = import_measured(self._import_pipeline, warned)
                self._model = check_model(self._pipeline.load_model())
        finally:
            enable_own_log()

    @property
    def predicts_batches(self) -> bool:
        """True when the pipeline has `predict_batch`."""
        return hasattr(self._pipeline, "predict_batch")

    def predict(self, json_data: Any) -> JsonResult:
        """Run process and predict over what verify_input returned; returns predict's result as JSON values.

        What predict yields, if it is a generator, is reported as it comes. Raises what the pipeline raises,
        WrongResult, and json_values.NotJson.
        """
        if self.predicts_batches:
            (result,) = self.predict_batch([json_data])
            if isinstance(result, BaseException):
                raise result
            return result
        data = self._pipeline.process(self._model, json_data)
        result = self._pipeline.predict(self._model, data)
        if isinstance(result, Iterator):
            result = _exhausted(result)
        return _checked(result, "predict")

    def predict_batch(self, inputs: list[Any], ids: Sequence[str] = ()) -> list[JsonResult | BaseException]:
        """Run process over each input and predict_batch over all; returns each result as JSON values, or the exception.

        When predict_batch raises, it is called for each input alone, so that one bad input fails alone. `ids` are those
        of the inputs' tasks, for the log.
        """
        names = ids or [""] * len(inputs)
        processed = [
            _attempt_as([name], self._pipeline.process, self._model, one)
            for name, one in zip(names, inputs, strict=True)
        ]
        good = [(name, one) for name, one in zip(names, processed, strict=True) if not isinstance(one, _Raised)]
        predicted = iter(self._predict_all(good))
        return [_unwrapped(one if isinstance(one, _Raised) else next(predicted)) for one in processed]

    def _predict_all(self, batch: list[tuple[str, Any]]) -> list[Any]:
        if not batch:
            return []
        results = _attempt_as([name for name, _ in batch], self._counted, [one for _, one in batch])
        if isinstance(results, _Raised):
            if len(batch) == 1 or isinstance(results.error, WrongCount):
                return [results] * len(batch)
            return [result for one in batch for result in self._predict_all([one])]
        return [_attempt(_checked, one, "predict_batch") for one in results]

    def _counted(self, batch: list[Any]) -> list[Any]:
        results = self._pipeline.predict_batch(self._model, list(batch))
        if isinstance(results, Generator):
            raise WrongCount("predict_batch is a generator; only predict can be one. Return a list of results")
        if not isinstance(results, list | tuple):
            raise WrongCount(f"predict_batch returned a {type(results).__name__}; it must return a list of results")
        if len(results) != len(batch):
            raise WrongCount(
                f"predict_batch returned {_how_many(len(results), 'result')} for {_how_many(len(batch), 'input')};"
                " it must return one for each"
            )
        return list(results)


@dataclass(frozen=True)
class _Raised:
    """An exception of the user's code, marked as raised: a value that it returns may be an exception too."""

    error: BaseException


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except BaseException as error:  # noqa: BLE001 (the user's own code; a panic in Rust is no Exception)
        return _Raised(error)


def _attempt_as(names: Sequence[str], function: Callable[..., Any], *arguments: Any) -> Any:
    """The same, logged with the ids of these tasks where they are known."""
    with logged_as(*filter(None, names)):
        return _attempt(function, *arguments)


def _unwrapped(value: Any) -> Any:
    return value.error if isinstance(value, _Raised) else value


def _exhausted(values: Iterator[Any]) -> Any:
    """The return value of a generator, or `{"output": [all that it yields]}`; each is reported when it is yielded."""
    output: list[Any] = []
    try:
        while True:
            value = json_values(next(values), f"output[{len(output)}]")
            report_output(json_text(value))
            output.append(value)
    except StopIteration as end:
        return {"output": output} if end.value is None else end.value
    finally:
        if isinstance(values, Generator):
            values.close()


def _checked(result: Any, function: str) -> JsonResult:
    if result is None:
        raise WrongResult(f"{function} returned None; it must return a dict. Does it lack a return?")
    values = json_values(result)
    if not isinstance(values, dict | list):
        raise WrongResult(f"{function} returned a {type(result).__name__}; it must return a dict, a list or a table")
    return values


def _how_many(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
