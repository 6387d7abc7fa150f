"""inline.py: quick functions on the event loop, others in threads, and one surprise at most."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop
from support.asgi_client import LOOP
from support.waiting import until

from app.serving.queue import inline
from app.serving.queue.executor import BatchingExecutor
from app.serving.queue.inline import AVERAGED, MAX_SIZE, InlineExecutor


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> InlineExecutor:
    """One for which 20 ms are quick and 50 ms are slow, so that it works on a busy machine."""
    monkeypatch.setattr(inline, "QUICK", 0.02)
    monkeypatch.setattr(inline, "SLOW", 0.05)
    monkeypatch.setattr(inline, "PAUSE", 20)
    return InlineExecutor(BatchingExecutor(4, "checks"))


def place() -> str:
    """The thread in which this runs: 'loop' or 'thread'."""
    return "thread" if threading.current_thread().name.startswith("checks-") else "loop"


def slow_place(seconds: float) -> str:
    time.sleep(seconds)
    return place()


def compute(seconds: float) -> None:
    """Use the processor for so long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@contextmanager
def crowded_core() -> Iterator[None]:
    """The loop's thread has a tenth of a core in this block."""
    everywhere = os.sched_getaffinity(0)
    core = {min(everywhere)}
    LOOP.call(lambda: os.sched_setaffinity(0, core))
    crowd = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(9)]
    try:
        for neighbour in crowd:
            os.sched_setaffinity(neighbour.pid, core)
        yield
    finally:
        for neighbour in crowd:
            neighbour.kill()
            neighbour.wait()
        LOOP.call(lambda: os.sched_setaffinity(0, everywhere))


def run(executor: InlineExecutor, function: Callable[[], Any] = place, size: int = 0) -> Any:
    return LOOP.run(executor.run(function, size))


def warm_up(executor: InlineExecutor) -> None:
    """Run quick functions until they run on the loop."""
    deadline = time.monotonic() + 30
    while run(executor) == "thread":
        assert time.monotonic() < deadline


def test_functions_run_in_threads_until_they_are_known_to_be_quick(executor: InlineExecutor) -> None:
    assert [run(executor) for _ in range(5)] == ["thread"] * 5
    warm_up(executor)


def test_functions_that_are_not_quick_stay_in_threads(executor: InlineExecutor) -> None:
    assert {run(executor, lambda: slow_place(0.03)) for _ in range(4 * AVERAGED)} == {"thread"}


def test_functions_that_are_not_quick_any_more_go_back_to_threads(executor: InlineExecutor) -> None:
    warm_up(executor)
    places = [run(executor, lambda: slow_place(0.04)) for _ in range(2 * AVERAGED)]
    assert places[0] == "loop"
    assert set(places[AVERAGED:]) == {"thread"}


@pytest.mark.parametrize("wait", [time.sleep, compute])
def test_one_slow_function_is_followed_by_threads_for_many_times_as_long(
    executor: InlineExecutor, wait: Callable[[float], None]
) -> None:
    warm_up(executor)
    began = time.monotonic()
    assert run(executor, lambda: wait(0.07) or place()) == "loop"
    took = time.monotonic() - began
    places = set()
    while time.monotonic() < began + 20 * 0.07:
        places.add(run(executor))
    assert places == {"thread"}
    until(lambda: run(executor) == "loop", what="functions on the loop", within=20 * took + 20)


@pytest.mark.skipif(sys.platform != "linux", reason="counted on Linux alone")
def test_time_for_which_others_had_the_core_does_not_count(executor: InlineExecutor) -> None:
    warm_up(executor)

    def held_up() -> tuple[str, float]:
        began = time.monotonic()
        compute(0.01)
        return place(), time.monotonic() - began

    with crowded_core():
        places, longest = {"loop"}, 0.0
        deadline = time.monotonic() + 30
        while places == {"loop"} and longest < 0.06 and time.monotonic() < deadline:
            where, took = run(executor, held_up)
            places.add(where)
            longest = max(longest, took)
    assert longest > 0.06
    assert places | {run(executor)} == {"loop"}


def test_large_input_is_left_to_a_thread(executor: InlineExecutor) -> None:
    warm_up(executor)
    assert run(executor, size=MAX_SIZE + 1) == "thread"
    assert run(executor, size=MAX_SIZE) == "loop"


def test_the_result_is_what_the_function_returns_or_raises_on_the_loop(executor: InlineExecutor) -> None:
    warm_up(executor)

    def refuse() -> None:
        raise ValueError("no")

    assert run(executor, lambda: 7) == 7
    with pytest.raises(ValueError, match="no"):
        run(executor, refuse)
    assert run(executor) == "loop"


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_an_exception_that_would_end_the_loop_is_an_error(executor: InlineExecutor, error: BaseException) -> None:
    warm_up(executor)

    def end() -> None:
        raise error

    with pytest.raises(RuntimeError, match=type(error).__name__):
        run(executor, end)
    assert run(executor) == "loop"


@pytest.mark.parametrize("run_loop", [asyncio.run, uvloop.run])
def test_a_function_may_use_asyncio_wherever_it_runs(executor: InlineExecutor, run_loop: Callable[..., Any]) -> None:
    async def of_the_user() -> str:
        await asyncio.sleep(0)
        return place()

    async def many() -> list[str]:
        places = [await executor.run(lambda: run_loop(of_the_user()), 0) for _ in range(10 * AVERAGED)]
        # This loop goes on.
        await asyncio.sleep(0)
        assert asyncio.current_task() is not None
        return places

    outer: list[Callable[[Coroutine[Any, Any, list[str]]], list[str]]] = [LOOP.run, uvloop.run]
    for run_outer in outer:
        assert "loop" in run_outer(many())
