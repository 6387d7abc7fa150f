"""The user's pipeline in a process that predicts: loaded once, then called for each task."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from app.json_values import json_values

log = logging.getLogger(__name__)

PIPELINE = "app.logic.pipeline"


class WrongResult(TypeError):
    """`predict` returned something else than a dict."""


class Predictor:
    """The pipeline and its model. Nothing of the user's is imported before `load`."""

    def __init__(self, import_pipeline: Callable[[], Any] = lambda: importlib.import_module(PIPELINE)) -> None:
        self._import_pipeline = import_pipeline
        self._pipeline: Any = None
        self._model: Any = None
        #: Whether `load` has returned; in a forked process, whether it had before the fork.
        self.loaded = False

    def load(self, report_failure: Callable[[str], None], *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Import the pipeline and load its model, however long that takes.

        What fails is reported with its cause and tried again, after 5 s at first and 60 s in the end: a file that is
        not there yet may come. Tasks wait on the queue meanwhile.
        """
        for pause in _pauses():
            started = time.monotonic()
            try:
                self._pipeline = self._import_pipeline()
                self._model = self._pipeline.load_model()
            except (Exception, SystemExit) as error:
                log.exception("load_model failed; next try in %d s", pause)
                report_failure(describe(error))
                sleep(pause)
            else:
                log.info("model loaded in %.1f s", time.monotonic() - started)
                self.loaded = True
                return

    def predict(self, json_data: Any) -> dict[str, Any]:
        """Run process and predict over what verify_input returned; the result as JSON values.

        Raises what the pipeline raises, WrongResult, and json_values.NotJson.
        """
        data = self._pipeline.process(self._model, json_data)
        result = self._pipeline.predict(self._model, data)
        if not isinstance(result, dict):
            raise WrongResult(f"predict returned a {type(result).__name__}; it must return a dict")
        values: dict[str, Any] = json_values(result)
        return values


def describe(error: BaseException) -> str:
    """One line for an exception: its type and message, without the traceback."""
    said = " ".join(message(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def message(error: BaseException) -> str:
    """What an exception says of itself; nothing when it can not even say that."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001  the user's own code
        return ""


def _pauses() -> Iterator[int]:
    pause = 5
    while True:
        yield pause
        pause = min(pause * 2, 60)
