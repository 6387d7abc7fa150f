"""app/parcel.py: a parcel in a pool process, with a real pipeline of the tests' own and a real Redis."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis, RedisError

from app import keys
from app.board import ALL, Board
from app.claims import Claims, Limits
from app.messages import task_message
from app.parcel import SHOWN_RESULT, TELL_AFTER, Item, ParcelRunner
from app.predictor import Predictor
from app.records import TaskRecords

SLOT = 3


@pytest.fixture
def records(broker: Redis) -> TaskRecords:
    return TaskRecords(broker)


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def taken(broker: Redis, records: TaskRecords, board: Board) -> Callable[..., list[Item]]:
    """Accepts and takes a task for each of these inputs."""

    def take(*inputs: Any) -> list[Item]:
        for number, one in enumerate(inputs):
            records.accept(f"task-{number}", task_message(f"task-{number}", one), callback_uri=None, queue_limit=1000)
        claimed = Claims(broker, Limits(deliveries=3, lifetime=60)).take(free=1, most=len(inputs))
        messages = [json.loads(one.message) for one in claimed]
        board.begin(SLOT, len(messages))
        return [Item(each["headers"]["id"], each["headers"]["id"], each["body"]) for each in messages]

    return take


@pytest.fixture
def runner(records: TaskRecords, board: Board) -> Callable[..., ParcelRunner]:
    def make(*, records: Any = records, sleep: Callable[[float], None] = pytest.fail, **functions: Any) -> ParcelRunner:
        pipeline = SimpleNamespace(load_model=lambda: "model", process=lambda model, one: one, **functions)
        predictor = Predictor(lambda: pipeline)
        predictor.load(pytest.fail, sleep=pytest.fail)
        return ParcelRunner(predictor, records, board, lifetime=60, sleep=sleep)

    return make


def results(records: TaskRecords, items: list[Item]) -> list[Any]:
    found = [records.find(item.task_id) for item in items]
    return [(record.status, record.result) for record in found if record is not None]


def test_each_task_gets_its_own_result(runner: Any, taken: Any, records: TaskRecords, redis: Redis) -> None:
    items = taken(1, 2, 3)
    outcome = runner(predict=lambda model, one: {"twice": 2 * one}).run(SLOT, items)
    assert results(records, items) == [("SUCCESS", {"twice": 2 * each}) for each in (1, 2, 3)]
    assert [(one.task_id, one.status) for one in outcome.ended] == [(item.task_id, "SUCCESS") for item in items]
    assert (outcome.waiting, outcome.predicts_batches) == (0, False)
    assert not redis.exists(keys.UNACKED, keys.CLAIMANTS)


def test_a_bad_task_fails_alone_with_its_traceback_in_the_log(
    runner: Any, taken: Any, records: TaskRecords, caplog: pytest.LogCaptureFixture
) -> None:
    items = taken(1, 0, 2)
    runner(predict=lambda model, one: {"inverse": 1 / one}).run(SLOT, items)
    assert results(records, items) == [
        ("SUCCESS", {"inverse": 1.0}),
        ("FAILURE", {"args": ["division by zero"]}),
        ("SUCCESS", {"inverse": 0.5}),
    ]
    assert "task-1" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("error", [SystemExit("I leave"), KeyboardInterrupt("stop")])
def test_a_pipeline_that_wants_to_end_the_process_fails_its_task(
    error: BaseException, runner: Any, taken: Any, records: TaskRecords
) -> None:
    def predict(model: Any, one: Any) -> Any:
        raise error

    items = taken(1)
    runner(predict=predict).run(SLOT, items)
    ((status, result),) = results(records, items)
    assert (status, str(error) in result["args"][0]) == ("FAILURE", True)


def test_a_process_that_is_told_to_end_ends(runner: Any, taken: Any, records: TaskRecords) -> None:
    def predict(model: Any, one: Any) -> Any:
        raise SystemExit(-15)

    items = taken(1)
    with pytest.raises(SystemExit):
        runner(predict=predict).run(SLOT, items)
    assert results(records, items) == [("STARTED", None)]


def test_what_was_cut_off_does_not_run(runner: Any, taken: Any, records: TaskRecords, board: Board) -> None:
    ran = []

    def predict(model: Any, one: int) -> dict[str, int]:
        ran.append(one)
        if one == 2:
            board.cut(SLOT)
        return {}

    items = taken(1, 2, 3, 4)
    outcome = runner(predict=predict).run(SLOT, items)
    assert ran == [1, 2]
    assert [one.task_id for one in outcome.ended] == ["task-0", "task-1"]
    assert [status for status, _ in results(records, items)] == ["SUCCESS", "SUCCESS", "STARTED", "STARTED"]


def test_the_board_says_at_which_task_the_process_is(runner: Any, taken: Any, board: Board) -> None:
    places = []

    def predict(model: Any, one: int) -> dict[str, int]:
        places.append(board.place(SLOT))
        return {}

    runner(predict=predict).run(SLOT, taken(1, 2))
    assert (places, board.place(SLOT)) == ([0, 1], 2)


def test_the_board_says_that_a_batch_runs_all_at_once(runner: Any, taken: Any, board: Board) -> None:
    places = []

    def predict_batch(model: Any, batch: list[int]) -> list[dict[str, int]]:
        places.append(board.place(SLOT))
        return [{} for _ in batch]

    outcome = runner(predict_batch=predict_batch).run(SLOT, taken(1, 2))
    assert (places, board.place(SLOT)) == ([ALL], 2)
    assert outcome.predicts_batches


def test_ends_are_told_while_a_long_task_runs(runner: Any, taken: Any, records: TaskRecords) -> None:
    seen = []

    def predict(model: Any, one: int) -> dict[str, int]:
        seen.append([status for status, _ in results(records, items)])
        if one == 1:
            time.sleep(2 * TELL_AFTER)  # what a slow predict does
        return {}

    items = taken(1, 2)
    runner(predict=predict).run(SLOT, items)
    assert seen == [["STARTED", "STARTED"], ["SUCCESS", "STARTED"]]


def test_results_are_stored_as_soon_as_redis_is_back(
    runner: Any, taken: Any, records: TaskRecords, caplog: pytest.LogCaptureFixture
) -> None:
    class AwayTwice:
        """The records of a Redis that is away for the first two tries."""

        tries = 0

        def end_all(self, ends: Any, *, lifetime: int) -> int:
            self.tries += 1
            if self.tries < 3:
                raise RedisError("Connection refused")
            return records.end_all(ends, lifetime=lifetime)

    pauses: list[float] = []
    items = taken(1)
    runner(records=AwayTwice(), sleep=pauses.append, predict=lambda model, one: {}).run(SLOT, items)
    assert results(records, items) == [("SUCCESS", {})]
    assert pauses == [0.05, 0.1]
    assert "Connection refused" in caplog.text


def test_the_dashboard_gets_the_beginning_of_a_long_result(runner: Any, taken: Any) -> None:
    outcome = runner(predict=lambda model, one: {"x": "y" * 100_000}).run(SLOT, taken(1))
    assert len(outcome.ended[0].shown) == SHOWN_RESULT


def test_one_line_of_the_log_names_a_parcels_tasks(runner: Any, taken: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    runner(predict=lambda model, one: {}).run(SLOT, taken(1, 2))
    (line,) = [record.getMessage() for record in caplog.records if "ended in" in record.getMessage()]
    assert line.endswith("s: task-0 SUCCESS, task-1 SUCCESS")
