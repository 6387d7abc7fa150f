"""runner.py: a batch in a pool process, with a real pipeline of the tests' own and a real Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis, RedisError
from support.records import record_of
from support.waiting import until

from app.serving.store import keys
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.messages import QueuedTask, parse, task_message
from app.serving.store.tasks import TaskStore
from app.serving.worker.batching.poller import PollGrant
from app.serving.worker.batching.result_writer import ResultWriter
from app.serving.worker.batching.runner import MAX_RESULT_REPR, BatchRunner
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
        tasks = [parse(one.message, one.since) for one in claimed]
        scoreboard.assign(SLOT, len(tasks))
        return [task for task in tasks if task is not None]

    return take


@pytest.fixture
def runner(records: TaskStore, claims: Claims, scoreboard: Scoreboard) -> Callable[..., BatchRunner]:
    def make(*, records: Any = records, sleep: Callable[[float], None] = pytest.fail, **functions: Any) -> BatchRunner:
        pipeline = SimpleNamespace(load_model=lambda: "model", process=lambda model, one: one, **functions)
        predictor = Predictor(lambda: pipeline)
        predictor.load(pytest.fail, sleep=pytest.fail)
        return BatchRunner(predictor, ResultWriter(records, ttl=60, sleep=sleep), claims, scoreboard)

    return make


def results(records: TaskStore, tasks: list[QueuedTask]) -> list[Any]:
    found = [record_of(records, task.task_id) for task in tasks]
    return [(record.status, record.result) for record in found]


def test_each_task_gets_its_own_result(runner: Any, taken: Any, records: TaskStore, redis: Redis) -> None:
    tasks = taken(1, 2, 3)
    result = runner(predict=lambda model, one: {"twice": 2 * one}).run(SLOT, tasks)
    assert results(records, tasks) == [("SUCCESS", {"twice": 2 * each}) for each in (1, 2, 3)]
    assert [(one.task_id, one.status) for one in result.results] == [(task.task_id, "SUCCESS") for task in tasks]
    assert (result.waiting, result.predicts_batches) == (0, False)
    assert not redis.exists(keys.UNACKED, keys.OWNERS)


def test_a_bad_task_fails_alone_with_its_traceback_in_the_log(
    runner: Any, taken: Any, records: TaskStore, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = taken(1, 0, 2)
    runner(predict=lambda model, one: {"inverse": 1 / one}).run(SLOT, tasks)
    assert results(records, tasks) == [
        ("SUCCESS", {"inverse": 1.0}),
        ("FAILURE", {"args": ["division by zero"]}),
        ("SUCCESS", {"inverse": 0.5}),
    ]
    assert "task-1" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("error", [SystemExit("I exit"), KeyboardInterrupt("stop")])
def test_a_pipeline_that_exits_fails_its_task(
    error: BaseException, runner: Any, taken: Any, records: TaskStore
) -> None:
    def predict(model: Any, one: Any) -> Any:
        raise error

    tasks = taken(1)
    runner(predict=predict).run(SLOT, tasks)
    ((status, result),) = results(records, tasks)
    assert (status, str(error) in result["args"][0]) == ("FAILURE", True)


def test_a_process_that_celery_ends_does_end(runner: Any, taken: Any, records: TaskStore) -> None:
    def predict(model: Any, one: Any) -> Any:
        raise SystemExit(-15)

    tasks = taken(1)
    with pytest.raises(SystemExit):
        runner(predict=predict).run(SLOT, tasks)
    assert results(records, tasks) == [("STARTED", None)]


def test_truncated_tasks_do_not_run(runner: Any, taken: Any, records: TaskStore, scoreboard: Scoreboard) -> None:
    ran = []

    def predict(model: Any, one: int) -> dict[str, int]:
        ran.append(one)
        if one == 2:
            scoreboard.truncate(SLOT)
        return {}

    tasks = taken(1, 2, 3, 4)
    result = runner(predict=predict).run(SLOT, tasks)
    assert ran == [1, 2]
    assert [one.task_id for one in result.results] == ["task-0", "task-1"]
    assert [status for status, _ in results(records, tasks)] == ["SUCCESS", "SUCCESS", "STARTED", "STARTED"]


def test_the_scoreboard_has_the_index_of_the_task_that_runs(runner: Any, taken: Any, scoreboard: Scoreboard) -> None:
    places = []

    def predict(model: Any, one: int) -> dict[str, int]:
        places.append(scoreboard.index(SLOT))
        return {}

    runner(predict=predict).run(SLOT, taken(1, 2))
    assert (places, scoreboard.index(SLOT)) == ([0, 1], 2)


def test_the_scoreboard_shows_that_predict_batch_runs_all_at_once(
    runner: Any, taken: Any, scoreboard: Scoreboard
) -> None:
    places = []

    def predict_batch(model: Any, batch: list[int]) -> list[dict[str, int]]:
        places.append(scoreboard.index(SLOT))
        return [{} for _ in batch]

    result = runner(predict_batch=predict_batch).run(SLOT, taken(1, 2))
    assert (places, scoreboard.index(SLOT)) == ([ALL], 2)
    assert result.predicts_batches


def test_results_are_stored_while_a_long_task_runs(runner: Any, taken: Any, records: TaskStore) -> None:
    def statuses() -> list[str]:
        return [status for status, _ in results(records, tasks)]

    def predict(model: Any, one: int) -> dict[str, int]:
        if one == 3:
            until(lambda: statuses() == ["SUCCESS", "SUCCESS", "STARTED"], what="the results of those in front")
        return {}

    tasks = taken(1, 2, 3)
    result = runner(predict=predict).run(SLOT, tasks)
    assert [ended.status for ended in result.results] == ["SUCCESS"] * 3
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
    tasks = taken(1)
    runner(records=AwayTwice(), sleep=pauses.append, predict=lambda model, one: {}).run(SLOT, tasks)
    assert results(records, tasks) == [("SUCCESS", {})]
    assert pauses == [0.05, 0.1]
    assert "Connection refused" in caplog.text


def test_the_dashboard_gets_the_beginning_of_a_long_result(runner: Any, taken: Any) -> None:
    result = runner(predict=lambda model, one: {"x": "y" * 100_000}).run(SLOT, taken(1))
    assert len(result.results[0].result_repr) == MAX_RESULT_REPR


# Polling


@pytest.fixture
def granted(scoreboard: Scoreboard, taken: Any, records: TaskStore) -> Callable[..., list[QueuedTask]]:
    """Accepts a task for each of these inputs, and takes the first, with a grant to poll."""

    def make(*inputs: Any) -> list[QueuedTask]:
        tasks: list[QueuedTask] = taken(inputs[0])
        for number, one in enumerate(inputs[1:], start=1):
            records.enqueue(f"task-{number}", task_message(f"task-{number}", one), callback_uri=None, queue_limit=1000)
        scoreboard.assign(SLOT, 1, polls=True)
        return tasks

    return make


@pytest.mark.parametrize("batches", [False, True])
def test_waiting_tasks_are_polled_run_and_returned_with_all_their_fields(
    batches: bool, runner: Any, granted: Any, records: TaskStore, redis: Redis
) -> None:
    one = {"predict": lambda model, one: {"is": one}}
    many = {"predict_batch": lambda model, all_of_them: [{"is": one} for one in all_of_them]}
    began = time.time()
    tasks = granted(0, 1, 2, 3)
    result = runner(**(many if batches else one)).run(SLOT, tasks, PollGrant(1, limit=2))
    for number in range(4):
        record = record_of(records, f"task-{number}")
        assert (record.status, record.result) == ("SUCCESS", {"is": number})
    assert [ended.task_id for ended in result.results] == ["task-0"]
    assert [polled.id for polled in result.polled] == ["task-1", "task-2", "task-3"]
    assert [polled.result.result_repr for polled in result.polled] == ['{"is": 1}', '{"is": 2}', '{"is": 3}']
    assert [polled.args_repr for polled in result.polled] == ["[1]", "[2]", "[3]"]
    assert all(began - 1 < polled.since <= polled.time_start < began + 60 for polled in result.polled)
    assert (result.rounds, result.waiting, list(result.to_requeue)) == (3, 0, [])
    assert not redis.exists(keys.QUEUE, keys.UNACKED, keys.OWNERS)


def test_without_a_grant_a_process_does_not_poll(runner: Any, granted: Any, redis: Redis) -> None:
    result = runner(predict=lambda model, one: {}).run(SLOT, granted(0, 1))
    assert (list(result.polled), result.waiting, redis.llen(keys.QUEUE)) == ([], 1, 1)


def test_a_bad_polled_task_fails_alone(runner: Any, granted: Any, records: TaskStore) -> None:
    result = runner(predict=lambda model, one: {"is": 1 / one}).run(SLOT, granted(1, 0, 2), PollGrant(1, limit=8))
    assert [polled.result.status for polled in result.polled] == ["FAILURE", "SUCCESS"]


def test_tasks_truncated_from_a_round_are_to_be_requeued_and_end_the_session(
    runner: Any, granted: Any, scoreboard: Scoreboard, redis: Redis
) -> None:
    def predict(model: Any, one: int) -> dict[str, Any]:
        if one == 1:
            scoreboard.truncate(SLOT)
        return {}

    result = runner(predict=predict).run(SLOT, granted(0, 1, 2, 3), PollGrant(1, limit=2))
    assert [polled.id for polled in result.polled] == ["task-1"]
    assert list(result.to_requeue) == ["task-2"]
    assert redis.llen(keys.QUEUE) == 1
