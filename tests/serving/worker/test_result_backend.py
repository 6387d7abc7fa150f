"""result_backend.py: task states of Celery, stored as records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import signals, states
from celery.contrib.testing.worker import start_worker
from redis import Redis
from support.records import record_of

from app.serving.json_values import NotJson, json_values
from app.serving.store import keys
from app.serving.store.tasks import CallbackReport, TaskRecord, TaskStore

MakeCelery = Callable[[Callable[..., Any]], Any]

URI = "http://receiver.example/stash"
UNSENT = CallbackReport(state="PENDING")


@pytest.fixture
def run(make_celery: MakeCelery, records: TaskStore, redis: Redis) -> Callable[..., TaskRecord]:
    """Accepts a task, runs this function as Celery's tracer does in a worker, and returns the record."""
    from celery.app.trace import build_tracer

    def run_one(
        function: Callable[..., Any], *arguments: Any, task_id: str = "the-id", uri: str | None = URI
    ) -> TaskRecord:
        records.enqueue(task_id, "message", callback_uri=uri, queue_limit=10)
        task = make_celery(function)
        trace = build_tracer(task.name, task, app=task.app)
        trace(task_id, arguments, {}, {"id": task_id, "is_eager": False, "delivery_info": {}})
        return record_of(records, task_id)

    return run_one


@pytest.fixture
def _logging_as_it_was() -> Iterator[None]:
    """A worker sets up logging for its whole process, unless a signal handler has done so."""

    def already_done(**_: Any) -> None:
        pass

    signals.setup_logging.connect(already_done)
    yield
    signals.setup_logging.disconnect(already_done)


def raising(error: BaseException) -> Callable[[Any], Any]:
    def fail(json_data: Any) -> Any:
        raise error

    return fail


def test_a_result_is_the_record_and_its_callback_is_queued(run: Callable[..., TaskRecord], redis: Redis) -> None:
    assert run(lambda json_data: {"got": json_data}, {"x": 1}) == TaskRecord(
        status="SUCCESS", result={"got": {"x": 1}}, callback_uri=URI, callback=UNSENT
    )
    assert redis.zrange(keys.UNDELIVERED, 0, -1) == ["the-id"]


class OfTheUser(Exception):
    def __init__(self, first: str, *, second: str) -> None:
        super().__init__(first, second)


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (NameError("name 'np' is not defined"), ["name 'np' is not defined"]),
        (ValueError(), ["ValueError"]),
        (KeyError("x"), ["x"]),
        (KeyError(3), [3]),
        (OfTheUser("a", second="b"), ["a", "b"]),
        (FileNotFoundError(2, "No such file"), [2, "No such file"]),
        (ValueError({"x": [float("nan")]}), [{"x": [None]}]),
        (ValueError({1}), ["{1}"]),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), ["utf-8", "b'\\xff'", 0, 1, "bad"]),
        (NotJson("result is a Figure: not JSON serialisable"), ["result is a Figure: not JSON serialisable"]),
        (RuntimeError("x" * 100_000), ["x" * 100_000]),
        (ValueError("naïve ☃"), ["naïve ☃"]),
    ],
)
def test_a_failure_is_its_exceptions_arguments(
    run: Callable[..., TaskRecord], error: Exception, arguments: list[Any], redis: Redis
) -> None:
    assert run(raising(error), 1) == TaskRecord(
        status="FAILURE", result={"args": arguments}, callback_uri=URI, callback=UNSENT
    )
    assert redis.zrange(keys.UNDELIVERED, 0, -1) == ["the-id"]


def test_an_exception_that_cannot_even_be_written_ends_the_task(run: Callable[..., TaskRecord]) -> None:
    class Unprintable:
        def __repr__(self) -> str:
            raise ValueError("no text")

    record = run(raising(ValueError(Unprintable())), 1)
    assert record.status == "FAILURE"


def test_a_result_that_cannot_be_written_fails_the_task(run: Callable[..., TaskRecord]) -> None:
    """A task that has run must end, whatever it returned: here a number of more digits than Python writes."""
    record = run(lambda json_data: json_values({"n": 10**5000}), 1)
    assert record.status == "FAILURE"
    assert record.result["args"][0].startswith('result["n"] is ')


def test_a_task_that_has_ended_keeps_its_result_when_it_runs_again(
    run: Callable[..., TaskRecord], redis: Redis
) -> None:
    run(lambda json_data: {"run": 1}, 1)
    assert run(lambda json_data: {"run": 2}, 1).result == {"run": 1}
    assert run(raising(ValueError("late")), 1).status == "SUCCESS"
    assert redis.zrange(keys.UNDELIVERED, 0, -1) == ["the-id"]


def test_a_process_that_died_ends_its_task(make_celery: MakeCelery, records: TaskStore) -> None:
    """As Celery's main process stores when a predicting process is gone."""
    from billiard.exceptions import WorkerLostError

    records.enqueue("the-id", "message", callback_uri=None, queue_limit=10)
    backend = make_celery(lambda json_data: {}).backend
    backend.mark_as_failure("the-id", WorkerLostError("signal 9 (SIGKILL)"), traceback=None)
    assert records.find("the-id") == TaskRecord(status="FAILURE", result={"args": ["signal 9 (SIGKILL)"]})


def test_a_task_that_took_too_long_fails_with_its_limit(make_celery: MakeCelery, records: TaskStore) -> None:
    from billiard.exceptions import TimeLimitExceeded

    records.enqueue("the-id", "message", callback_uri=None, queue_limit=10)
    make_celery(lambda json_data: {}).backend.mark_as_failure("the-id", TimeLimitExceeded(2.5), traceback=None)
    assert record_of(records).result == {"args": ["the task took longer than TASK_TIME_LIMIT, 2.5 s"]}


def test_the_end_of_a_task_that_celery_sent_ends_its_claim(
    make_celery: MakeCelery, records: TaskStore, redis: Redis
) -> None:
    """Its message has a tag that Kombu made."""
    from celery.app.task import Context

    redis.hset(keys.UNACKED, "a-tag", "message")
    backend = make_celery(lambda json_data: {}).backend
    backend.mark_as_done("the-id", {"a": 1}, request=Context({"properties": {"delivery_tag": "a-tag"}}))
    assert record_of(records).result == {"a": 1}
    assert redis.hlen(keys.UNACKED) == 0


def test_a_revoked_task_has_ended(make_celery: MakeCelery, records: TaskStore) -> None:
    records.enqueue("the-id", "message", callback_uri=None, queue_limit=10)
    make_celery(lambda json_data: {}).backend.mark_as_revoked("the-id", "terminated")
    record = record_of(records)
    assert (record.status, record.is_finished) == ("REVOKED", True)


def test_an_ended_record_expires_after_the_lifetime_that_is_set(run: Callable[..., TaskRecord], redis: Redis) -> None:
    run(lambda json_data: {}, 1, uri=None)
    assert 86_000 < int(redis.ttl(keys.task("the-id"))) <= 86_400


def test_celery_reads_the_record_back(make_celery: MakeCelery, records: TaskStore) -> None:
    task = make_celery(lambda json_data: {})
    assert task.AsyncResult("never").state == states.PENDING
    records.enqueue("the-id", "message", callback_uri=None, queue_limit=10)
    records.complete("the-id", "SUCCESS", {"a": 1}, ttl=60)
    assert task.AsyncResult("the-id").state == states.SUCCESS
    assert task.AsyncResult("the-id").result == {"a": 1}


@pytest.mark.filterwarnings("ignore::celery.exceptions.DuplicateTaskNameWarning")  # app.tasks has the same name
@pytest.mark.usefixtures("_logging_as_it_was")
def test_a_real_worker_runs_what_the_api_accepts(make_celery: MakeCelery, records: TaskStore, redis: Redis) -> None:
    from support.waiting import until

    from app.serving.store.messages import task_message

    task = make_celery(lambda json_data: {"twice": json_data * 2})
    for task_id, verified in {"good": 21, "bad": None}.items():
        records.enqueue(task_id, task_message(task_id, verified), callback_uri=None, queue_limit=10)
    with start_worker(task.app, pool="solo", perform_ping_check=False, shutdown_timeout=30):
        until(
            lambda: all(record_of(records, task_id).is_finished for task_id in ("good", "bad")),
            what="both tasks to end",
        )
    assert record_of(records, "good") == TaskRecord(status="SUCCESS", result={"twice": 42})
    assert record_of(records, "bad").status == "FAILURE"
    assert redis.llen(keys.QUEUE) == 0
    assert redis.hlen(keys.UNACKED) == 0


def test_a_result_waits_for_redis_to_come_back(
    make_celery: MakeCelery, records: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connections of the backend break once more than they try again themselves."""
    from redis import ConnectionError as Away

    backend = make_celery(lambda json_data: {}).backend
    records.enqueue("the-id", "message", callback_uri=None, queue_limit=10)
    outages = [Away("gone"), Away("gone")]
    end = backend._store.complete

    def end_when_redis_is_back(*arguments: Any, **options: Any) -> None:
        if outages:
            raise outages.pop()
        end(*arguments, **options)

    backend._store.complete = end_when_redis_is_back
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    backend.mark_as_done("the-id", {"a": 1})
    assert record_of(records) == TaskRecord(status="SUCCESS", result={"a": 1})
