"""executor.py: one answer for each function, and no delay by a slow one."""

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

from app.serving.queue.executor import STALL_INTERVAL, BatchingExecutor


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Set when slow functions may return."""
    event = threading.Event()
    yield event
    event.set()


def run(executor: BatchingExecutor, *functions: Any) -> list[Any]:
    """The value or the exception of each function, when all are awaited at once."""

    async def gathered() -> list[Any]:
        return await asyncio.gather(*(executor.run(function) for function in functions), return_exceptions=True)

    return LOOP.run(gathered())


def test_the_result_is_what_the_function_returns_or_raises() -> None:
    def refuse() -> None:
        raise ValueError("no")

    one, other = run(BatchingExecutor(2, "test"), lambda: 1, refuse)
    assert one == 1
    assert isinstance(other, ValueError)


def test_functions_do_not_run_on_the_loop() -> None:
    (name,) = run(BatchingExecutor(2, "test"), lambda: threading.current_thread().name)
    assert name == "test-1"


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_an_exception_that_would_end_a_thread_is_an_error_and_ends_none(error: BaseException) -> None:
    executor = BatchingExecutor(1, "test")

    def end() -> None:
        raise error

    for _ in range(2):
        (answer,) = run(executor, end)
        assert isinstance(answer, RuntimeError)
    assert run(executor, lambda: 1) == [1]


def test_a_slow_function_does_not_delay_others_while_threads_are_free(release: threading.Event) -> None:
    executor = BatchingExecutor(4, "test")
    for slow in range(3):
        LOOP.run(started(executor, lambda: release.wait(30)))
        assert run(executor, *(lambda n=n: n for n in range(50))) == list(range(50)), slow


def test_a_slow_function_queued_as_the_stall_check_is_due_does_not_delay_the_next(release: threading.Event) -> None:
    executor = BatchingExecutor(4, "test")

    async def both() -> Any:
        await executor.run(lambda: 1)
        # The next check is due now. On uvloop it runs before any thread is woken.
        time.sleep(2 * STALL_INTERVAL)
        slow, quick = executor.run(lambda: release.wait(30)), executor.run(lambda: 2)
        try:
            return await asyncio.wait_for(quick, 10)
        finally:
            release.set()
            await slow

    assert uvloop.run(both()) == 2


async def started(executor: BatchingExecutor, function: Any) -> None:
    executor.run(function)


def test_work_behind_slow_functions_is_done_when_one_of_them_ends(release: threading.Event) -> None:
    executor = BatchingExecutor(2, "test")
    for _ in range(2):
        LOOP.run(started(executor, lambda: release.wait(30)))
    threading.Timer(0.2, release.set).start()
    assert run(executor, lambda: 1) == [1]


def test_slow_functions_run_in_parallel() -> None:
    together = threading.Barrier(8)
    assert sorted(run(BatchingExecutor(8, "test"), *[lambda: together.wait(30)] * 8)) == list(range(8))


def test_there_are_no_more_threads_than_the_limit() -> None:
    names = run(BatchingExecutor(3, "few"), *[lambda: time.sleep(0.005) or threading.current_thread().name] * 30)
    assert set(names) <= {"few-1", "few-2", "few-3"}


def test_random_work_is_answered_once_and_correctly() -> None:
    """From many tasks, with pauses: no result is lost, none is another's."""
    draw = random.Random(5)
    done: list[int] = []
    executor = BatchingExecutor(5, "test")

    def work(number: int) -> int:
        time.sleep(draw.choice([0, 0, 0, 0, 0.0005, 0.003]))
        done.append(number)
        return -number

    async def client(first: int) -> None:
        for number in range(first, first + 100):
            assert await executor.run(lambda number=number: work(number)) == -number
            if draw.random() < 0.2:
                await asyncio.sleep(draw.choice([0, 0.001, 0.004]))

    async def clients() -> None:
        await asyncio.gather(*(client(1000 * number) for number in range(1, 21)))

    LOOP.run(clients())
    assert len(done) == len(set(done)) == 2000
