"""process.py: the loop of a predicting process, on a real Redis that may be away, and with real signals."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from doubles.flaky_redis import FlakyRedis
from redis import Redis
from support.paths import PROJECT
from support.records import record_of
from support.redis_server import counted_commands
from support.waiting import until
from support.worker import LIMITS, make_loop

from app.serving import current_task, progress
from app.serving.store import keys, scripts
from app.serving.store.claims import Claims, HostClaims, new_owner
from app.serving.store.dead_letters import DeadLetters
from app.serving.store.messages import TASK_NAME, QueuedTask, parse, task_message
from app.serving.store.tasks import PENDING, REVOKED, SUCCESS, TaskStore
from app.serving.worker import process as worker_process
from app.serving.worker.batching import events
from app.serving.worker.batching.place import Place, make_places
from app.serving.worker.batching.scoreboard import Activity, Slot
from app.serving.worker.process import TaskLoop

Accept = Callable[..., None]
MakeLoop = Callable[..., TaskLoop]

OWNER = new_owner()


@pytest.fixture
def places() -> list[Place]:
    """That of the process, and that of another one."""
    return make_places(2)


@pytest.fixture
def celery_app(make_celery: Any) -> Celery:
    app: Celery = make_celery(lambda json_data: {}).app
    return app


@pytest.fixture
def loop(celery_app: Celery, redis_url: str, slot: Slot, places: list[Place]) -> MakeLoop:
    """The loop of a process with these options and functions, which is up: loop(max_tasks=2, predict=...)."""

    def make(*, url: str = redis_url, **options: Any) -> TaskLoop:
        slot.wait()
        return make_loop(url, celery_app, owner=OWNER, slot=slot, place=places[0], **options)

    return make


@contextmanager
def stopped_when(condition: Callable[[], object], loop: TaskLoop) -> Iterator[None]:
    """Send this process the signal to stop, as a worker does, as soon as the condition is true."""
    before = signal.signal(signal.SIGTERM, lambda *_: loop.stop())

    def stop() -> None:
        until(condition, what="the time to stop")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield
    finally:
        thread.join(40)
        signal.signal(signal.SIGTERM, before)


def statuses(records: TaskStore, ids: str) -> list[str]:
    return [record_of(records, task_id).status for task_id in ids]


def twice(model: str, one: int) -> dict[str, int]:
    return {"twice": 2 * one}


# ------------------------------------------------------------------ taking


def test_results_are_stored_in_the_step_that_takes_the_next_tasks(
    loop: MakeLoop, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    accept(a=0)
    loop(max_tasks=1, predict=twice).run()  # which loads the scripts
    accept(b=1, c=2, d=3)
    process = loop(max_tasks=4, batch_size=1, predict_batch=lambda model, many: [twice(model, one) for one in many])
    with counted_commands(redis) as commands:
        process.run()
    assert [record_of(records, task_id).result for task_id in "bcd"] == [{"twice": 2}, {"twice": 4}, {"twice": 6}]
    # Two takes that also store, of which the first waited; then the last result, and the claims that are left.
    assert [command for command in commands if command in ("blmove", "evalsha")] == ["blmove", *["evalsha"] * 5]
    assert not redis.exists(keys.QUEUE, keys.UNACKED, keys.OWNERS)


def test_a_process_takes_a_task_that_comes_while_it_waits(loop: MakeLoop, accept: Accept, slot: Slot) -> None:
    process = loop(predict=twice)
    accepting = threading.Timer(1.5, accept, kwargs={"a": 1})
    accepting.start()
    with stopped_when(lambda: slot.ended == 1 and slot.activity is Activity.WAITING, process):
        process.run()
    accepting.join()


def test_what_runs_is_on_the_scoreboard(loop: MakeLoop, accept: Accept, slot: Slot) -> None:
    seen = []

    def predict(model: str, one: int) -> dict[str, Any]:
        seen.append((slot.activity, slot.view().suspects))
        return {}

    accept(a=1, b=2)
    loop(max_tasks=2, quick=True, predict=predict).run()
    assert seen == [(Activity.RUNNING, ["a"]), (Activity.RUNNING, ["b"])]
    assert slot.view().suspects == []


def test_what_only_another_worker_could_run_becomes_a_dead_letter_with_the_reason(
    loop: MakeLoop, accept: Accept, celery_app: Celery, records: TaskStore, redis: Redis
) -> None:
    accept(a=1)
    celery_app.send_task("app.tasks.another", (1,), task_id="foreign")
    accept(b=2)
    loop(max_tasks=2, quick=True, predict=twice).run()
    assert statuses(records, "ab") == [SUCCESS] * 2
    (letter,) = DeadLetters(redis).read()
    assert (letter.task_id, "app.tasks.another is not known here" in letter.reason) == ("foreign", True)
    assert not redis.exists(keys.QUEUE, keys.UNACKED, keys.OWNERS)


def test_a_message_that_is_claimed_under_another_id_than_its_own_keeps_no_claim(
    loop: MakeLoop, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    """The scripts take the first that stands in the message."""
    crafted = json.loads(task_message("real", 1))
    crafted["headers"] = {"nested": {"id": "claimed"}, **crafted["headers"]}
    redis.lpush(keys.QUEUE, json.dumps(crafted))
    accept(a=1)
    loop(max_tasks=1, predict=twice).run()
    assert statuses(records, "a") == [SUCCESS]
    assert [(letter.task_id, letter.reason) for letter in DeadLetters(redis).read()] == [
        ("claimed", "its id does not stand where Celery writes it")
    ]
    assert not redis.exists(keys.QUEUE, keys.UNACKED, keys.OWNERS)


def test_an_id_of_any_length_harms_nobody(
    loop: MakeLoop, accept: Accept, celery_app: Celery, records: TaskStore, redis: Redis
) -> None:
    celery_app.send_task(TASK_NAME, (1,), task_id="a" * 300_000)
    accept(b=1)
    loop(max_tasks=1, quick=True, predict=twice).run()
    assert statuses(records, "b") == [SUCCESS]
    assert not redis.exists(keys.QUEUE, keys.UNACKED, keys.OWNERS)


def test_a_message_is_on_the_scoreboard_before_it_is_read(
    loop: MakeLoop, accept: Accept, slot: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may kill the process that reads it."""
    seen = []

    def read(message: str, since: float, **known: str) -> QueuedTask:
        seen.append((slot.activity, slot.view().suspects))
        return parse(message, since, **known)

    monkeypatch.setattr(worker_process, "parse", read)
    accept(a=1)
    loop(max_tasks=1, predict=twice).run()
    assert seen == [(Activity.RUNNING, ["a"])]


def test_a_task_that_was_cancelled_while_it_waited_does_not_run(
    loop: MakeLoop, accept: Accept, records: TaskStore
) -> None:
    ran = []
    accept(a=1, b=2)
    records.cancel("a", ttl=60)
    loop(max_tasks=1, predict=lambda model, one: ran.append(one) or {}).run()
    assert (ran, statuses(records, "ab")) == ([2], [REVOKED, SUCCESS])


def test_under_load_the_log_is_written_too(
    loop: MakeLoop, accept: Accept, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that never waits would keep what it has to log for ever."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(events, "FLUSH_INTERVAL", 0)
    logged = []

    def predict_batch(model: str, many: list[int]) -> list[dict[str, Any]]:
        logged.append(len([message for message in caplog.messages if message.startswith("ended: ")]))
        return [{}] * len(many)

    accept(a=1, b=2, c=3)
    loop(max_tasks=3, batch_size=1, predict_batch=predict_batch).run()
    assert logged == [0, 1, 2]


# ------------------------------------------------------------------ the place


def test_a_process_keeps_the_place_while_tasks_are_cheap_and_nothing_waits(
    loop: MakeLoop, accept: Accept, places: list[Place]
) -> None:
    kept = []
    following = iter([{"b": 0.0}, {"c": 0.0, "d": 0.0}, {}, {"e": 0.04}, {"f": 0.0}, {}])

    def predict_batch(model: str, many: list[float]) -> list[dict[str, Any]]:
        kept.append(not places[1].try_acquire())
        places[1].release()
        accept(**next(following))
        time.sleep(many[0])
        return [{}] * len(many)

    accept(a=0.0)
    loop(max_tasks=6, batch_size=1, predict_batch=predict_batch).run()
    # a: may be slow. c: another one waits. f: the one before was slow.
    assert kept == [False, True, False, True, True, False]
    assert places[1].try_acquire()


def test_a_process_stores_its_results_before_it_stands_by(
    loop: MakeLoop, accept: Accept, records: TaskStore, places: list[Place], slot: Slot
) -> None:
    def predict(model: str, one: int) -> dict[str, Any]:
        assert places[1].try_acquire()  # another one, as the time of the first task is not known
        return {}

    accept(a=1)
    process = loop(predict=predict)
    with stopped_when(lambda: slot.activity is Activity.STANDBY and statuses(records, "a") == [SUCCESS], process):
        process.run()
    assert not places[0].try_acquire()


# ------------------------------------------------------------------ Redis away


def test_what_was_cut_off_and_taken_for_started_runs_when_the_worker_renews(
    loop: MakeLoop, accept: Accept, records: TaskStore, redis: Redis, slot: Slot
) -> None:
    """Both sides act at once: the worker cuts off all but one, and takes the next for started, which is left out."""

    def predict(model: str, one: int) -> dict[str, Any]:
        if one == 1:
            assert slot.truncate() == ["b", "c"]
        return {}

    def renew() -> None:
        until(lambda: slot.epoch, what="another epoch")
        assert record_of(records, "a").status == SUCCESS  # or it would run again
        HostClaims(redis, LIMITS).renew({OWNER: slot.epoch})

    accept(a=1, b=2, c=3)
    worker = threading.Thread(target=renew)
    worker.start()
    loop(max_tasks=3, quick=True, predict=predict).run()
    worker.join()
    assert (statuses(records, "abc"), redis.hget(keys.task("b"), "deliveries")) == ([SUCCESS] * 3, "1")


def test_an_answer_that_is_lost_begins_a_new_epoch_and_loses_nothing(
    loop: MakeLoop, accept: Accept, records: TaskStore, redis: Redis, flaky: FlakyRedis, slot: Slot
) -> None:
    ran = []

    def predict(model: str, one: int) -> dict[str, Any]:
        ran.append(one)
        if one == 1:
            accept(b=2, c=3)
            flaky.lose_answer_to(f"{OWNER}.0")
        return {}

    accept(a=1)
    loop(url=flaky.url, max_tasks=3, predict=predict).run()
    assert (flaky.lost_answers, slot.epoch) == (1, 1)
    assert (ran, statuses(records, "abc")) == ([1, 2, 3], [SUCCESS] * 3)
    assert [redis.hget(keys.task(task_id), "deliveries") for task_id in "abc"] == ["1"] * 3
    assert not redis.exists(keys.QUEUE, keys.UNACKED, keys.OWNERS)


def test_what_ran_while_redis_was_away_is_stored_and_does_not_run_again(
    loop: MakeLoop, accept: Accept, records: TaskStore, redis: Redis, flaky: FlakyRedis, slot: Slot, claims: Claims
) -> None:
    """Although the worker renews claims as soon as Redis is back, before the process has stored its results."""
    ran: list[int] = []
    claimed: list[str] = []
    host = HostClaims(redis, LIMITS)

    def come_back() -> None:
        until(lambda: slot.activity is Activity.STANDBY, what="the process to notice")
        for _ in range(10):
            host.renew({OWNER: slot.epoch})
            time.sleep(0.02)
        claimed.extend(redis.hkeys(keys.OWNERS))
        flaky.come_back()

    def predict(model: str, one: int) -> dict[str, Any]:
        ran.append(one)
        if len(ran) == 1:
            flaky.go_away()
            waiting.start()
        return {}

    waiting = threading.Thread(target=come_back)
    accept(a=1, b=2)
    loop(url=flaky.url, max_tasks=2, predict=predict).run()
    waiting.join()
    assert (ran, claimed, statuses(records, "ab")) == ([1, 2], ["a"], [SUCCESS] * 2)
    assert not redis.exists(keys.QUEUE, keys.UNACKED, keys.OWNERS)


def test_a_process_without_redis_leaves_the_place_to_others_and_gives_a_sign_of_life(
    loop: MakeLoop, accept: Accept, records: TaskStore, flaky: FlakyRedis, slot: Slot, places: list[Place]
) -> None:
    ages = []

    def come_back() -> None:
        assert until(places[1].try_acquire, what="the place")
        places[1].release()
        over = time.monotonic() + 2.5
        while time.monotonic() < over:
            ages.append(slot.seconds)
            time.sleep(0.01)
        accept(a=1)
        flaky.come_back()

    flaky.go_away()
    process = loop(url=flaky.url, max_tasks=1, predict=twice)
    waiting = threading.Thread(target=come_back)
    waiting.start()
    process.run()
    waiting.join()
    assert statuses(records, "a") == [SUCCESS]
    assert slot.activity is not Activity.RUNNING
    assert max(ages) < 2


# ------------------------------------------------------------------ the end


def test_a_process_that_waits_stops_at_once_and_keeps_nothing(
    loop: MakeLoop, redis: Redis, slot: Slot, places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.serving.worker.process.WAIT", 1.9)
    process = loop(predict=twice)
    with stopped_when(lambda: redis.info("clients")["blocked_clients"], process):
        began = time.monotonic()
        process.run()
    assert time.monotonic() - began < 1.5
    assert places[1].try_acquire()
    assert not redis.exists(keys.OWNERS)


def test_a_process_that_stands_by_stops_at_once(loop: MakeLoop, slot: Slot, places: list[Place]) -> None:
    assert places[1].try_acquire()
    process = loop(predict=twice)
    with stopped_when(lambda: slot.activity is Activity.STANDBY, process):
        process.run()
    assert not places[0].try_acquire()


def test_a_process_that_runs_a_batch_ends_it_and_takes_no_more(
    loop: MakeLoop, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    accept(a=1, b=2, c=3)

    def predict_batch(model: str, many: list[int]) -> list[dict[str, Any]]:
        if 1 in many:
            is_running.set()
            assert is_stopping.wait(20)
        return [{}] * len(many)

    is_running, is_stopping = threading.Event(), threading.Event()
    process = loop(batch_size=2, predict_batch=predict_batch)
    before = signal.signal(signal.SIGTERM, lambda *_: (process.stop(), is_stopping.set()))
    stopping = threading.Thread(target=lambda: is_running.wait(20) and os.kill(os.getpid(), signal.SIGTERM))
    stopping.start()
    try:
        process.run()
    finally:
        stopping.join()
        signal.signal(signal.SIGTERM, before)
    assert statuses(records, "abc") == [SUCCESS, SUCCESS, PENDING]
    assert redis.llen(keys.QUEUE) == 1
    assert not redis.exists(keys.OWNERS)


def test_a_process_without_redis_stops_at_once(loop: MakeLoop, flaky: FlakyRedis, places: list[Place]) -> None:
    flaky.go_away()
    process = loop(url=flaky.url, predict=twice)
    tries = flaky.refused
    with stopped_when(lambda: flaky.refused > tries + 4, process):
        process.run()
    assert places[1].try_acquire()


@pytest.mark.parametrize("batches", [False, True])
def test_a_process_ends_after_as_many_tasks_as_it_may_run(
    batches: bool, loop: MakeLoop, accept: Accept, redis: Redis, slot: Slot
) -> None:
    accept(**{f"task-{number}": number for number in range(10)})
    functions: dict[str, Any] = {"predict": twice}
    if batches:
        functions = {"predict_batch": lambda model, many: [{}] * len(many)}
    loop(max_tasks=7, quick=True, **functions).run()
    assert (slot.ended, redis.llen(keys.QUEUE), redis.hlen(keys.OWNERS)) == (7, 3, 0)


def test_a_process_ends_between_two_batches_when_it_may_not_go_on(
    loop: MakeLoop, accept: Accept, redis: Redis, slot: Slot
) -> None:
    """But it runs one batch in any case: a model alone may be larger than WORKER_MAX_MB."""
    accept(**{f"task-{number}": number for number in range(10)})
    loop(quick=True, batch_size=4, may_go_on=lambda: False, predict_batch=lambda model, many: [{}] * len(many)).run()
    assert (slot.ended, redis.llen(keys.QUEUE)) == (4, 6)


# ------------------------------------------------------------------ the parent

PARENT = """
import ctypes, os, time
from app.serving.worker import process
process.PARENT_CHECK_INTERVAL = 0.05
parent = os.getpid()
if os.fork():
    time.sleep({lives})
    os._exit(0)
while {is_late} and os.getppid() == parent:
    time.sleep(0.01)
process.exit_with_parent(parent)
print("running", flush=True)
{act}
print("outlived")
"""


@pytest.mark.parametrize(
    "act",
    [
        "time.sleep(5)",
        pytest.param(
            "ctypes.PyDLL(None).sleep(5)",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not end it"),
        ),
    ],
    ids=["python", "native code that lets no thread run"],
)
def test_a_process_exits_with_its_worker(act: str) -> None:
    command = [sys.executable, "-c", PARENT.format(act=act, lives=60, is_late=False)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == b"running\n"
        began = time.monotonic()
        worker.kill()
        assert worker.stdout.read() == b""
        assert time.monotonic() - began < 4


def test_a_process_exits_when_its_worker_was_gone_before_it_watched() -> None:
    command = [sys.executable, "-c", PARENT.format(act="time.sleep(5)", lives=0, is_late=True)]
    assert b"outlived" not in subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, check=True).stdout


def test_the_pipeline_sees_its_task_and_shows_its_progress(
    loop: MakeLoop, accept: Accept, records: TaskStore, redis: Redis
) -> None:
    seen: list[Any] = []

    def predict(model: str, one: int) -> dict[str, Any]:
        seen.append(current_task())
        progress(0.5, f"half of {one}")
        if one == 1:
            until(lambda: record_of(records, "a").progress, what="progress while the task runs")
        progress(message=f"end of {one}")
        return {}

    accept(a=1, b=2)
    loop(predict=predict, max_tasks=2).run()
    assert [(task.id, task.delivery) for task in seen] == [("a", 1), ("b", 1)]
    shown = [json.loads(record_of(records, task_id).progress or "") for task_id in "ab"]
    assert shown == [{"fraction": None, "message": f"end of {one}"} for one in (1, 2)]
    assert current_task() is None


def test_a_second_delivery_is_seen_as_such(loop: MakeLoop, accept: Accept, broker: Redis) -> None:
    accept(a=1)
    lost = Claims(broker, LIMITS, new_owner())
    lost.take(limit=1)
    lost.requeue_all(["a"])
    seen: list[Any] = []
    loop(predict=lambda model, one: seen.append(current_task()) or {}, max_tasks=1).run()
    assert [(task.id, task.delivery) for task in seen] == [("a", 2)]


def test_process_has_a_task_of_its_own_in_a_batch(loop: MakeLoop, accept: Accept, records: TaskStore) -> None:
    seen: list[Any] = []

    def process(model: str, one: int) -> int:
        seen.append(current_task())
        return one

    def predict_batch(model: str, many: list[int]) -> list[dict[str, Any]]:
        seen.append(current_task())
        progress(0.5)
        return [{} for _ in many]

    accept(a=1, b=2)
    loop(predict_batch=predict_batch, process=process, max_tasks=2).run()
    assert [task and task.id for task in seen] == ["a", "b", None]
    assert [record_of(records, task_id).progress is None for task_id in "ab"] == [False, False]


def test_for_a_task_that_reports_nothing_nothing_is_sent(loop: MakeLoop, accept: Accept, redis: Redis) -> None:
    redis.script_flush()
    report = scripts.register(redis, "tasks/report").sha
    accept(a=1)
    loop(predict=lambda model, one: {}, max_tasks=1).run()
    assert redis.script_exists(report) == [False]
    accept(b=1)
    loop(predict=lambda model, one: progress(0.5) or {}, max_tasks=2).run()
    assert redis.script_exists(report) == [True]


def test_all_output_is_stored_before_the_end(loop: MakeLoop, accept: Accept, redis: Redis, records: TaskStore) -> None:
    """A reader that sees the end has seen all before it."""
    left: list[int] = []
    accept(a=300, b=2)

    def predict(model: str, count: int) -> Iterator[int]:
        left.append(redis.llen(keys.output("a")))  # type: ignore[arg-type]
        yield from range(count)

    loop(predict=predict, max_tasks=2).run()
    assert redis.lrange(keys.output("a"), 0, -1) == [str(number) for number in range(300)]
    assert record_of(records, "a").result == {"output": list(range(300))}
    assert left == [0, 300], "the next task of the batch begins behind that"


def test_a_generator_does_not_wait_for_redis(
    loop: MakeLoop, accept: Accept, flaky: FlakyRedis, redis: Redis, records: TaskStore
) -> None:
    """It goes on, and all is there when Redis is back."""
    accept(a=1)
    took: list[float] = []

    def predict(model: str, one: int) -> Iterator[int]:
        yield 0
        until(lambda: redis.llen(keys.output("a")) == 1, what="the first output")
        flaky.go_away()
        began = time.monotonic()
        yield from range(1, 1000)
        took.append(time.monotonic() - began)
        threading.Timer(0.3, flaky.come_back).start()

    loop(predict=predict, max_tasks=1, url=flaky.url).run()
    assert took[0] < 1
    assert redis.lrange(keys.output("a"), 0, -1) == [str(number) for number in range(1000)]
    assert record_of(records, "a").status == SUCCESS
