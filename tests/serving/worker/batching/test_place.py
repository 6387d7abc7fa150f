"""place.py: a lock that one process at a time has, in real processes."""

from __future__ import annotations

import os
import select
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.serving.worker.batching.place import Place, make_places

Forked = Callable[[Callable[[], object]], "Child"]


class Child:
    """A forked process that does something, and then waits for its end; it writes a byte when it is through."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._done, output = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            with suppress(BaseException):
                act()
                os.write(output, b".")
                signal.pause()
            os._exit(1)
        os.close(output)

    def is_through(self, *, within: float = 20) -> bool:
        return bool(select.select([self._done], [], [], within)[0]) and os.read(self._done, 1) == b"."

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


@pytest.fixture
def fork() -> Iterator[Forked]:
    children: list[Child] = []

    def start(act: Callable[[], object]) -> Child:
        children.append(Child(act))
        return children[-1]

    yield start
    for child in children:
        child.kill()


@pytest.fixture
def places() -> list[Place]:
    return make_places(3)


def test_one_process_at_a_time_has_the_place(places: list[Place], fork: Forked) -> None:
    assert fork(places[0].acquire).is_through()
    assert not places[1].try_acquire()
    waiting = fork(places[1].acquire)
    assert not waiting.is_through(within=0.1)
    places[0].release()
    assert waiting.is_through()
    assert not places[2].try_acquire()


def test_a_process_that_has_the_place_keeps_it_at_once(places: list[Place]) -> None:
    assert places[0].try_acquire()
    assert places[0].try_acquire()
    places[0].acquire()
    places[1].release()  # is no business of this one
    assert not places[1].try_acquire()


def test_the_worker_gives_on_the_place_of_a_process_that_is_stopped_or_dead(places: list[Place], fork: Forked) -> None:
    stopped = fork(places[0].acquire)
    assert stopped.is_through()
    os.kill(stopped.pid, signal.SIGSTOP)
    waiting = fork(places[1].acquire)
    assert not waiting.is_through(within=0.1)
    places[0].release()
    assert waiting.is_through()
    waiting.kill()
    assert not places[2].try_acquire()
    places[1].release()
    assert places[2].try_acquire()


def test_no_file_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the worker dies."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert len(make_places(2)) == 2
    assert not list(tmp_path.iterdir())


def test_a_signal_interrupts_a_process_that_waits_for_the_place(places: list[Place], fork: Forked) -> None:
    source, output = os.pipe()

    def wait_until_interrupted() -> None:
        def interrupt(*_: object) -> None:
            raise InterruptedError

        signal.signal(signal.SIGTERM, interrupt)
        os.write(output, b".")
        with suppress(InterruptedError):
            places[1].acquire()

    assert places[0].try_acquire()
    waiting = fork(wait_until_interrupted)
    assert os.read(source, 1) == b"."
    assert not waiting.is_through(within=0.1)
    os.kill(waiting.pid, signal.SIGTERM)
    assert waiting.is_through()
    assert places[0].try_acquire()
    os.close(source)
    os.close(output)
