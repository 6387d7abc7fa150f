"""runner.py: a parcel in a pool process, with a real pipeline of the tests' own and a real Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis, RedisError
from support.waiting import until

from app.serving.store import keys
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.messages import QueuedTask, parse, task_message
from app.serving.store.tasks import TaskStore
from app.serving.worker.batching.poller import PollGrant
from app.serving.worker.batching.result_writer import ResultWriter
from app.serving.worker.batching.runner import SHOWN_RESULT, BatchRunner
from app.serving.worker.batching.scoreboard import ALL, Scoreboard
from app.serving.worker.model.predictor import Predictor

SLOT = 3


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


@pytest.fixture
def claims(broker: Redis) -> Claims:
    return Claims(broker, ClaimLimits(deliveries=3, ttl=60))


@pytest.fixture
def taken(claims: Claims, records: TaskStore, scoreboard: Scoreboard) -> Callable[..., list[QueuedTask]]:
    """Accepts and takes a task for each of these inputs."""

    def take(*inputs: Any) -> list[QueuedTask]:
        for number, one in enumerate(inputs):
            records.enqueue(f"task-{number}", task_message(f"task-{number}", one), callback_uri=None, queue_limit=1000)
        claimed = claims.take(free=1, limit=len(inputs)).claimed
        items = [parse(one.message, one.since) for one in claimed]
        scoreboard.assign(SLOT, len(items))
        return [item for item in items if item is not None]

    return take


@pytest.fixture
def runner(records: TaskStore, claims: Claims, scoreboard: Scoreboard) -> Callable[..., BatchRunner]:
    def make(*, records: Any = records, sleep: Callable[[float], None] = pytest.fail, **functions: Any) -> BatchRunner:
        pipeline = SimpleNamespace(load_model=lambda: "model", process=lambda model, one: one, **functions)
        predictor = Predictor(lambda: pipeline)
        predictor.load(pytest.fail, sleep=pytest.fail)
        return BatchRunner(predictor, ResultWriter(records, lifetime=60, sleep=sleep), claims, scoreboard)

    return make


def results(records: TaskStore, items: list[QueuedTask]) -> list[Any]:
    found = [records.find(item.task_id) for item in items]
    return [(record.status, record.result) for record in found if record is not None]


def test_each_task_gets_its_own_result(runner: Any, taken: Any, records: TaskStore, redis: Redis) -> None:
    items = taken(1, 2, 3)
    outcome = runner(predict=lambda model, one: {"twice": 2 * one}).run(SLOT, items)
    assert results(records, items) == [("SUCCESS", {"twice": 2 * each}) for each in (1, 2, 3)]
    assert [(one.task_id, one.status) for one in outcome.ended] == [(item.task_id, "SUCCESS") for item in items]
    assert (outcome.waiting, outcome.predicts_batches) == (0, False)
    assert not redis.exists(keys.UNACKED, keys.OWNERS)


def test_a_bad_task_fails_alone_with_its_traceback_in_the_log(
    runner: Any, taken: Any, records: TaskStore, caplog: pytest.LogCaptureFixture
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
    error: BaseException, runner: Any, taken: Any, records: TaskStore
) -> None:
    def predict(model: Any, one: Any) -> Any:
        raise error

    items = taken(1)
    runner(predict=predict).run(SLOT, items)
    ((status, result),) = results(records, items)
    assert (status, str(error) in result["args"][0]) == ("FAILURE", True)


def test_a_process_that_is_told_to_end_ends(runner: Any, taken: Any, records: TaskStore) -> None:
    def predict(model: Any, one: Any) -> Any:
        raise SystemExit(-15)

    items = taken(1)
    with pytest.raises(SystemExit):
        runner(predict=predict).run(SLOT, items)
    assert results(records, items) == [("STARTED", None)]


def test_what_was_cut_off_does_not_run(runner: Any, taken: Any, records: TaskStore, scoreboard: Scoreboard) -> None:
    ran = []

    def predict(model: Any, one: int) -> dict[str, int]:
        ran.append(one)
        if one == 2:
            scoreboard.truncate(SLOT)
        return {}

    items = taken(1, 2, 3, 4)
    outcome = runner(predict=predict).run(SLOT, items)
    assert ran == [1, 2]
    assert [one.task_id for one in outcome.ended] == ["task-0", "task-1"]
    assert [status for status, _ in results(records, items)] == ["SUCCESS", "SUCCESS", "STARTED", "STARTED"]


def test_the_board_says_at_which_task_the_process_is(runner: Any, taken: Any, scoreboard: Scoreboard) -> None:
    places = []

    def predict(model: Any, one: int) -> dict[str, int]:
        places.append(scoreboard.index(SLOT))
        return {}

    runner(predict=predict).run(SLOT, taken(1, 2))
    assert (places, scoreboard.index(SLOT)) == ([0, 1], 2)


def test_the_board_says_that_a_batch_runs_all_at_once(runner: Any, taken: Any, scoreboard: Scoreboard) -> None:
    places = []

    def predict_batch(model: Any, batch: list[int]) -> list[dict[str, int]]:
        places.append(scoreboard.index(SLOT))
        return [{} for _ in batch]

    outcome = runner(predict_batch=predict_batch).run(SLOT, taken(1, 2))
    assert (places, scoreboard.index(SLOT)) == ([ALL], 2)
    assert outcome.predicts_batches


def test_ends_are_told_while_a_long_task_runs(runner: Any, taken: Any, records: TaskStore) -> None:
    def statuses() -> list[str]:
        return [status for status, _ in results(records, items)]

    def predict(model: Any, one: int) -> dict[str, int]:
        if one == 3:
            until(lambda: statuses() == ["SUCCESS", "SUCCESS", "STARTED"], what="the ends of those in front")
        return {}

    items = taken(1, 2, 3)
    outcome = runner(predict=predict).run(SLOT, items)
    assert [ended.status for ended in outcome.ended] == ["SUCCESS"] * 3
    assert statuses() == ["SUCCESS"] * 3


def test_results_are_stored_as_soon_as_redis_is_back(
    runner: Any, taken: Any, records: TaskStore, caplog: pytest.LogCaptureFixture
) -> None:
    class AwayTwice:
        """The records of a Redis that is away for the first two tries."""

        tries = 0

        def complete_many(self, completions: Any, *, ttl: int) -> int:
            self.tries += 1
            if self.tries < 3:
                raise RedisError("Connection refused")
            return records.complete_many(completions, ttl=ttl)

    pauses: list[float] = []
    items = taken(1)
    runner(records=AwayTwice(), sleep=pauses.append, predict=lambda model, one: {}).run(SLOT, items)
    assert results(records, items) == [("SUCCESS", {})]
    assert pauses == [0.05, 0.1]
    assert "Connection refused" in caplog.text


def test_the_dashboard_gets_the_beginning_of_a_long_result(runner: Any, taken: Any) -> None:
    outcome = runner(predict=lambda model, one: {"x": "y" * 100_000}).run(SLOT, taken(1))
    assert len(outcome.ended[0].shown) == SHOWN_RESULT


# Staying at the queue


@pytest.fixture
def stay(scoreboard: Scoreboard, taken: Any, records: TaskStore) -> Callable[..., list[QueuedTask]]:
    """Tasks with these inputs wait, of which the first was handed over, with leave to stay."""

    def make(*inputs: Any) -> list[QueuedTask]:
        items: list[QueuedTask] = taken(inputs[0])
        for number, one in enumerate(inputs[1:], start=1):
            records.enqueue(f"task-{number}", task_message(f"task-{number}", one), callback_uri=None, queue_limit=1000)
        scoreboard.assign(SLOT, 1, polls=True)
        return items

    return make


@pytest.mark.parametrize("batches", [False, True])
def test_what_waits_is_run_too_and_told_with_all_that_is_known_of_it(
    batches: bool, runner: Any, stay: Any, records: TaskStore, redis: Redis
) -> None:
    one = {"predict": lambda model, one: {"is": one}}
    many = {"predict_batch": lambda model, all_of_them: [{"is": one} for one in all_of_them]}
    began = time.time()
    items = stay(0, 1, 2, 3)
    outcome = runner(**(many if batches else one)).run(SLOT, items, PollGrant(1, most=2))
    for number in range(4):
        record = records.find(f"task-{number}")
        assert record is not None
        assert (record.status, record.result) == ("SUCCESS", {"is": number})
    assert [ended.task_id for ended in outcome.ended] == ["task-0"]
    assert [further.id for further in outcome.further] == ["task-1", "task-2", "task-3"]
    assert [further.ended.shown for further in outcome.further] == ['{"is": 1}', '{"is": 2}', '{"is": 3}']
    assert [further.args_repr for further in outcome.further] == ["[1]", "[2]", "[3]"]
    assert all(began - 1 < further.since <= further.time_start < began + 60 for further in outcome.further)
    assert (outcome.rounds, outcome.waiting, list(outcome.left)) == (3, 0, [])
    assert not redis.exists(keys.QUEUE, keys.UNACKED, keys.OWNERS)


def test_without_leave_a_process_does_not_stay(runner: Any, stay: Any, redis: Redis) -> None:
    outcome = runner(predict=lambda model, one: {}).run(SLOT, stay(0, 1))
    assert (list(outcome.further), outcome.waiting, redis.llen(keys.QUEUE)) == ([], 1, 1)


def test_a_bad_task_at_the_queue_fails_alone(runner: Any, stay: Any, records: TaskStore) -> None:
    outcome = runner(predict=lambda model, one: {"is": 1 / one}).run(SLOT, stay(1, 0, 2), PollGrant(1, most=8))
    assert [further.ended.status for further in outcome.further] == ["FAILURE", "SUCCESS"]


def test_what_is_cut_off_from_a_round_is_left_and_the_process_goes_back(
    runner: Any, stay: Any, scoreboard: Scoreboard, redis: Redis
) -> None:
    def predict(model: Any, one: int) -> dict[str, Any]:
        if one == 1:
            scoreboard.truncate(SLOT)
        return {}

    outcome = runner(predict=predict).run(SLOT, stay(0, 1, 2, 3), PollGrant(1, most=2))
    assert [further.id for further in outcome.further] == ["task-1"]
    assert list(outcome.left) == ["task-2"]
    assert redis.llen(keys.QUEUE) == 1
