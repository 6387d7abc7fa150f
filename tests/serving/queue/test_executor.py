"""executor.py: every piece of work is answered once, a slow one holds nobody, many are finished together."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from support.asgi_client import LOOP

from app.serving.queue.executor import MAX_BATCH, STALL_INTERVAL, BatchingExecutor


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What slow work waits for."""
    event = threading.Event()
    yield event
    event.set()


def run(threads: BatchingExecutor, *functions: Any) -> list[Any]:
    """What each returns or raises, when all are awaited at once."""

    async def gathered() -> list[Any]:
        return await asyncio.gather(*(threads.run(function) for function in functions), return_exceptions=True)

    return LOOP.run(gathered())


def test_what_a_function_returns_or_raises_is_the_answer() -> None:
    def refuse() -> None:
        raise ValueError("no")

    one, other = run(BatchingExecutor(2, "test"), lambda: 1, refuse)
    assert one == 1
    assert isinstance(other, ValueError)


def test_it_does_not_run_on_the_loop() -> None:
    (name,) = run(BatchingExecutor(2, "test"), lambda: threading.current_thread().name)
    assert name == "test-1"


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_what_would_end_a_thread_is_an_error_and_ends_none(error: BaseException) -> None:
    threads = BatchingExecutor(1, "test")

    def end() -> None:
        raise error

    for _ in range(2):
        (answer,) = run(threads, end)
        assert isinstance(answer, RuntimeError)
    assert run(threads, lambda: 1) == [1]


def test_a_slow_one_does_not_delay_others_while_threads_are_free(release: threading.Event) -> None:
    threads = BatchingExecutor(4, "test")
    for slow in range(3):
        LOOP.run(started(threads, lambda: release.wait(30)))
        assert run(threads, *(lambda n=n: n for n in range(50))) == list(range(50)), slow


def test_what_comes_with_a_slow_one_as_the_loop_looks_is_not_held_by_it(release: threading.Event) -> None:
    threads = BatchingExecutor(4, "test")

    async def both() -> Any:
        await threads.run(lambda: 1)
        # The next look is due now. On uvloop it comes before whoever is to be woken.
        time.sleep(2 * STALL_INTERVAL)
        slow, quick = threads.run(lambda: release.wait(30)), threads.run(lambda: 2)
        try:
            return await asyncio.wait_for(quick, 10)
        finally:
            release.set()
            await slow

    assert uvloop.run(both()) == 2


async def started(threads: BatchingExecutor, function: Any) -> None:
    threads.run(function)


def test_what_waits_behind_slow_ones_is_done_when_one_of_them_ends(release: threading.Event) -> None:
    threads = BatchingExecutor(2, "test")
    for _ in range(2):
        LOOP.run(started(threads, lambda: release.wait(30)))
    threading.Timer(0.2, release.set).start()
    assert run(threads, lambda: 1) == [1]


def test_slow_ones_run_side_by_side() -> None:
    together = threading.Barrier(8)
    assert sorted(run(BatchingExecutor(8, "test"), *[lambda: together.wait(30)] * 8)) == list(range(8))


def test_no_more_threads_than_were_asked_for() -> None:
    names = run(BatchingExecutor(3, "few"), *[lambda: time.sleep(0.005) or threading.current_thread().name] * 30)
    assert set(names) <= {"few-1", "few-2", "few-3"}


def test_many_are_finished_together_and_each_has_its_own_outcome() -> None:
    batches: list[int] = []

    def finish(values: list[int]) -> list[Any]:
        batches.append(len(values))
        time.sleep(0.002)
        return [ValueError(value) if value % 3 == 0 else value * 2 for value in values]

    answers = run(BatchingExecutor(4, "test", finish), *(lambda n=n: n for n in range(300)))
    for number, answer in enumerate(answers):
        assert (str(answer) == str(number)) if number % 3 == 0 else (answer == number * 2)
    assert sum(batches) == 300
    assert max(batches) <= MAX_BATCH
    assert len(batches) < 100


def test_what_finishing_raises_is_the_answer_to_each_and_it_goes_on() -> None:
    failing = [True]

    def finish(values: list[int]) -> list[int]:
        if failing:
            raise ConnectionError("away")
        return values

    threads = BatchingExecutor(4, "test", finish)
    assert [type(answer) for answer in run(threads, *[lambda: 1] * 10)] == [ConnectionError] * 10
    failing.clear()
    assert run(threads, *[lambda: 1] * 10) == [1] * 10


def test_too_few_outcomes_are_an_error_of_each_and_end_no_thread() -> None:
    threads = BatchingExecutor(4, "test", lambda values: values[1:])
    assert [type(answer) for answer in run(threads, lambda: 1, lambda: 2)] == [ValueError] * 2
    assert [type(answer) for answer in run(threads, lambda: 1, lambda: 2)] == [ValueError] * 2


def test_no_other_thread_is_awake_while_one_finishes_and_as_much_as_possible_is_prepared() -> None:
    awake: list[int] = []

    def finish(values: list[int]) -> list[int]:
        time.sleep(0.05)  # what a slow round trip does; the loop looks at the threads many times meanwhile
        awake.append(sum(thread.name.startswith("calm-") for thread in threading.enumerate()))
        return values

    run(BatchingExecutor(64, "calm", finish), *(lambda n=n: n for n in range(4 * MAX_BATCH)))
    assert max(awake) <= 3


def test_what_was_prepared_before_a_slow_one_is_not_held_by_it(release: threading.Event) -> None:
    threads = BatchingExecutor(4, "test", lambda values: values)

    async def quick_then_slow() -> Any:
        quick = threads.run(lambda: 1)
        threads.run(lambda: release.wait(30))
        return await quick

    assert LOOP.run(quick_then_slow()) == 1


def test_whatever_comes_when_is_answered_once_and_rightly() -> None:
    """Work of many kinds, from many tasks, with pauses: none is lost, none is another's."""
    draw = random.Random(5)
    finished: list[int] = []

    def finish(values: list[int]) -> list[int]:
        finished.extend(values)
        time.sleep(draw.choice([0, 0, 0.001]))
        return [-value for value in values]

    threads = BatchingExecutor(5, "test", finish)

    def work(number: int) -> int:
        time.sleep(draw.choice([0, 0, 0, 0, 0.0005, 0.003]))
        return number

    async def client(first: int) -> None:
        for number in range(first, first + 100):
            assert await threads.run(lambda number=number: work(number)) == -number
            if draw.random() < 0.2:
                await asyncio.sleep(draw.choice([0, 0.001, 0.004]))

    async def clients() -> None:
        await asyncio.gather(*(client(1000 * number) for number in range(1, 21)))

    LOOP.run(clients())
    assert len(finished) == len(set(finished)) == 2000
