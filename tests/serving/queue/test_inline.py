"""inline.py: quick functions on the event loop, others in threads, and one surprise at most."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from support.asgi_client import LOOP

from app.serving.queue import inline
from app.serving.queue.executor import BatchingExecutor
from app.serving.queue.inline import MAX_SIZE, QUICK_CALLS, InlineExecutor


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> InlineExecutor:
    """One for which a function is quick within 20 ms, on a machine as busy as may be, and 50 ms are tolerable."""
    monkeypatch.setattr(inline, "QUICK", 0.02)
    monkeypatch.setattr(inline, "TOLERABLE", 0.05)
    return InlineExecutor(BatchingExecutor(4, "checks"))


def place() -> str:
    """The thread in which this runs: 'loop' or 'thread'."""
    return "thread" if threading.current_thread().name.startswith("checks-") else "loop"


def slow_place(seconds: float) -> str:
    time.sleep(seconds)
    return place()


def run(executor: InlineExecutor, function: Callable[[], Any] = place, size: int = 0) -> Any:
    return LOOP.run(executor.run(function, size))


def warm_up(executor: InlineExecutor) -> None:
    """Run quick functions until they run on the loop."""
    for _ in range(20 * QUICK_CALLS):
        if run(executor) == "loop":
            return
    raise AssertionError("quick functions stay in threads")


def test_functions_run_in_threads_until_enough_of_them_were_quick(executor: InlineExecutor) -> None:
    assert [run(executor) for _ in range(QUICK_CALLS)] == ["thread"] * QUICK_CALLS
    warm_up(executor)


def test_slow_functions_stay_in_threads(executor: InlineExecutor) -> None:
    assert {run(executor, lambda: slow_place(0.03)) for _ in range(2 * QUICK_CALLS)} == {"thread"}


def test_a_function_that_is_slow_on_the_loop_is_alone_there(executor: InlineExecutor) -> None:
    warm_up(executor)
    places = [run(executor, lambda: slow_place(0.03)) for _ in range(3)]
    assert places == ["loop", "thread", "thread"]
    assert run(executor) == "thread"
    warm_up(executor)


def test_after_a_very_slow_function_threads_are_used_for_a_hundred_times_as_long(executor: InlineExecutor) -> None:
    warm_up(executor)
    began = time.monotonic()
    assert run(executor, lambda: slow_place(0.06)) == "loop"
    while time.monotonic() < began + 3:
        assert run(executor) == "thread" or time.monotonic() > began + 6
    time.sleep(max(0.0, began + 7 - time.monotonic()))
    warm_up(executor)


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
        places = [await executor.run(lambda: run_loop(of_the_user()), 0) for _ in range(3 * QUICK_CALLS)]
        # This loop goes on.
        await asyncio.sleep(0)
        assert asyncio.current_task() is not None
        return places

    outer: list[Callable[[Coroutine[Any, Any, list[str]]], list[str]]] = [LOOP.run, uvloop.run]
    for run_outer in outer:
        assert "loop" in run_outer(many())
