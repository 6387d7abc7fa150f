"""runner.py: a batch in one process, with a pipeline of the tests' own, and its slot on the scoreboard."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from support.records import failed
from support.worker import predictor

from app.serving.errors import BadInput, failure
from app.serving.json_values import NotJson
from app.serving.logs.current import current_ids
from app.serving.store import keys
from app.serving.store.messages import TASK_NAME, QueuedTask, parse
from app.serving.store.tasks import TaskStore
from app.serving.worker.batching.result_buffer import ResultBuffer
from app.serving.worker.batching.runner import BatchRunner, TaskResult
from app.serving.worker.batching.scoreboard import ALL, Slot

Taken = Callable[..., list[QueuedTask]]
Run = Callable[..., list[TaskResult]]


@pytest.fixture
def results(records: TaskStore) -> Iterator[ResultBuffer]:
    buffer = ResultBuffer(records, ttl=60, sleep=pytest.fail)
    yield buffer
    # Nothing of this test is to be stored in the next one.
    buffer.take()


@pytest.fixture
def run(results: ResultBuffer, slot: Slot) -> Run:
    """Runs these tasks with these functions, as a process that has taken them: run(tasks, predict=...)."""

    def run_batch(tasks: list[QueuedTask], **functions: Any) -> list[TaskResult]:
        slot.begin([task.task_id for task in tasks])
        return BatchRunner(predictor(**functions), results, slot).run(tasks)

    return run_batch


def ends(ended: list[TaskResult]) -> list[tuple[str, str, Any]]:
    return [(one.completion.task_id, one.completion.status, json.loads(one.completion.result)) for one in ended]


@pytest.mark.parametrize("batches", [False, True])
def test_each_task_gets_its_own_result_and_time(batches: bool, run: Run, taken: Taken, results: ResultBuffer) -> None:
    def predict(model: str, one: int) -> dict[str, Any]:
        return {"twice": 2 * one}

    def predict_batch(model: str, many: list[int]) -> list[dict[str, Any]]:
        return [predict(model, one) for one in many]

    began = time.time()
    ended = run(taken(a=1, b=2, c=3), **({"predict_batch": predict_batch} if batches else {"predict": predict}))
    assert ends(ended) == [(task, "SUCCESS", {"twice": 2 * one}) for task, one in zip("abc", (1, 2, 3), strict=True)]
    assert all(began <= one.time_start <= time.time() and 0 < one.runtime < 30 for one in ended)
    assert [one.task_id for one in results.take()][-1] == "c"


@pytest.mark.parametrize("batches", [False, True])
def test_a_bad_task_fails_alone_with_its_traceback_in_the_log(
    batches: bool, run: Run, taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    def predict(model: str, one: int) -> dict[str, Any]:
        return {"inverse": 1 / one}

    def predict_batch(model: str, many: list[int]) -> list[dict[str, Any]]:
        return [predict(model, one) for one in many]

    ended = run(taken(a=1, b=0, c=2), **({"predict_batch": predict_batch} if batches else {"predict": predict}))
    assert ends(ended) == [
        ("a", "SUCCESS", {"inverse": 1.0}),
        ("b", "FAILURE", failed("ZeroDivisionError", "division by zero")),
        ("c", "SUCCESS", {"inverse": 0.5}),
    ]
    assert "[b] failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no text")


class OfTheUser(Exception):
    def __init__(self, first: str, *, second: str) -> None:
        super().__init__(first, second)


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit("I exit"), KeyboardInterrupt("stop"), NotJson("x is a y")]
)
def test_whatever_is_raised_fails_its_task(error: BaseException, run: Run, taken: Taken) -> None:
    def predict(model: str, one: Any) -> Any:
        raise error

    assert ends(run(taken(a=1), predict=predict)) == [("a", "FAILURE", failure(error))]


def test_a_bad_input_fails_its_task_and_is_no_error_in_the_log(
    run: Run, taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    def predict(model: str, one: Any) -> Any:
        raise BadInput("not an image")

    with caplog.at_level(logging.INFO):
        assert ends(run(taken(a=1), predict=predict)) == [("a", "FAILURE", failed("BadInput", "not an image"))]
    assert "had a bad input: not an image" in caplog.text
    assert "Traceback" not in caplog.text
    assert "ERROR" not in caplog.text


def test_a_result_that_cannot_be_written_fails_its_task(run: Run, taken: Taken) -> None:
    """Here a number of more digits than Python writes."""
    ((_, status, result),) = ends(run(taken(a=1), predict=lambda model, one: {"n": 10**5000}))
    assert (status, result["args"][0][:15]) == ("FAILURE", 'result["n"] is ')


@pytest.mark.parametrize("batches", [False, True])
def test_another_clients_wrong_arguments_fail_alone(
    batches: bool, run: Run, taken: Taken, make_celery: Any, redis: Redis
) -> None:
    make_celery(lambda json_data: {}).app.send_task(TASK_NAME, (1, 2), task_id="theirs")
    (text,) = redis.lrange(keys.QUEUE, 0, -1)
    redis.delete(keys.QUEUE)
    functions: dict[str, Any] = {"predict": lambda model, one: {"is": one}}
    if batches:
        functions = {"predict_batch": lambda model, many: [{"is": one} for one in many]}
    first, last = taken(a=1, b=2)
    ended = ends(run([first, parse(text, 0), last], **functions))
    assert [(task, status) for task, status, _ in ended] == [("a", "SUCCESS"), ("theirs", "FAILURE"), ("b", "SUCCESS")]
    assert "takes one argument, json_data" in ended[1][2]["args"][0]


def test_the_slot_shows_which_task_runs_and_that_none_does_in_the_end(run: Run, taken: Taken, slot: Slot) -> None:
    seen = []

    def predict(model: str, one: int) -> dict[str, Any]:
        seen.append(slot.view().suspects)
        return {}

    run(taken(a=1, b=2), predict=predict)
    assert seen == [["a"], ["b"]]
    assert (slot.view().suspects, slot.ended) == ([], 2)


def test_the_slot_shows_that_predict_batch_runs_all_at_once(run: Run, taken: Taken, slot: Slot) -> None:
    seen = []

    def predict_batch(model: str, many: list[int]) -> list[dict[str, Any]]:
        seen.append((slot.view().position, slot.view().suspects))
        return [{} for _ in many]

    run(taken(a=1, b=2), predict_batch=predict_batch)
    assert seen == [(ALL, ["a", "b"])]
    assert (slot.view().suspects, slot.ended) == ([], 2)


def test_what_is_cut_off_does_not_run_and_is_no_suspect(run: Run, taken: Taken, slot: Slot) -> None:
    ran, left_out = [], []

    def predict(model: str, one: int) -> dict[str, Any]:
        ran.append(one)
        if one == 2:
            left_out.extend(slot.truncate())
        return {}

    ended = run(taken(a=1, b=2, c=3, d=4), predict=predict)
    assert (ran, left_out, [one.task.task_id for one in ended]) == ([1, 2], ["c", "d"], ["a", "b"])
    assert (slot.view().suspects, slot.ended) == ([], 2)


def test_the_time_that_storing_a_result_takes_is_not_its_tasks(
    run: Run, taken: Taken, slot: Slot, results: ResultBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis is away, that may take longer than TASK_TIME_LIMIT."""
    seen = []
    monkeypatch.setattr(results, "add", lambda *_, **__: seen.append(slot.view().seconds))
    run(taken(a=1, b=2), predict=lambda model, one: time.sleep(0.001) or {})
    assert seen == [0.0, 0.0]


def test_what_ends_no_program_ends_no_process_either(run: Run, taken: Taken) -> None:
    """A cancelled coroutine is no Exception."""

    def predict(model: str, one: int) -> dict[str, Any]:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(taken(a=1), predict=predict)


@pytest.mark.parametrize("batches", [False, True])
def test_each_task_runs_and_fails_under_its_own_id(batches: bool, run: Run, taken: Taken) -> None:
    during: list[tuple[str, ...]] = []
    failed: list[tuple[str, ...]] = []

    def process(model: str, one: int) -> int:
        during.append(current_ids())
        return one

    def predict(model: str, one: int) -> dict[str, Any]:
        during.append(current_ids())
        return {"inverse": 1 / one}

    def predict_batch(model: str, many: list[int]) -> list[dict[str, Any]]:
        during.append(current_ids())
        return [{"inverse": 1 / one} for one in many]

    class Failures(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            failed.append(current_ids())

    handler = Failures(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        functions: dict[str, Any] = {"predict_batch": predict_batch} if batches else {"predict": predict}
        run(taken(a=1, b=0), process=process, **functions)
    finally:
        logging.getLogger().removeHandler(handler)
    # A batch that raises is tried again, each task alone.
    assert during == ([("a",), ("b",), ("a", "b"), ("a",), ("b",)] if batches else [("a",), ("a",), ("b",), ("b",)])
    assert failed == [("b",)]
    assert current_ids() == ()
