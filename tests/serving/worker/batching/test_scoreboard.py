"""scoreboard.py: shared memory between the worker and the processes that predict."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from doubles.clock import Clock

from app.serving.worker.batching.scoreboard import ALL, NOT_STARTED, Activity, Slot, View, make_slots


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slot(clock: Clock) -> Slot:
    return make_slots(1, 64, clock)[0]


def test_a_process_goes_through_its_batch(slot: Slot, clock: Clock) -> None:
    assert slot.view() == View(Activity.LOADING, 0.0, [], 0)
    slot.begin(["a", "b"])
    assert slot.view() == View(Activity.RUNNING, 0.0, ["a", "b"], NOT_STARTED)
    assert slot.view().suspects == ["a", "b"]
    for index, task_id in enumerate("ab"):
        assert slot.start(index)
        clock.now += 5
        assert slot.view() == View(Activity.RUNNING, 5.0, ["a", "b"], index)
        assert slot.view().suspects == [task_id]
    slot.start(2)
    assert slot.view().suspects == []
    assert slot.seconds == 10.0


def test_what_comes_after_a_task_is_not_its_time(slot: Slot, clock: Clock) -> None:
    slot.begin(["a", "b"])
    slot.start(0)
    clock.now += 5
    slot.pause()
    clock.now += 600
    assert slot.view() == View(Activity.RUNNING, 0.0, ["a", "b"], 0)


def test_all_tasks_that_run_at_once_are_suspects_and_cannot_be_cut_off(slot: Slot) -> None:
    slot.begin(["a", "b"])
    assert slot.start(ALL)
    assert slot.view().suspects == ["a", "b"]
    assert slot.truncate() == []


def test_a_process_that_waits_or_stands_by_has_no_tasks(slot: Slot, clock: Clock) -> None:
    slot.begin(["a"])
    slot.start(0)
    for publish, activity in ((slot.wait, Activity.WAITING), (slot.stand_by, Activity.STANDBY)):
        publish()
        clock.now += 2
        assert (slot.view().activity, slot.view().batch, slot.seconds) == (activity, [], 2.0)


def test_what_is_cut_off_is_not_started(slot: Slot) -> None:
    slot.begin(list("abcde"))
    assert slot.truncate() == []  # nothing runs yet
    slot.start(1)
    assert slot.truncate() == ["c", "d", "e"]
    assert slot.view().batch == ["a", "b"]
    assert slot.truncate() == []
    assert not slot.start(2)
    slot.begin(list("fgh"))
    assert [slot.start(index) for index in range(3)] == [True] * 3


@contextmanager
def meanwhile(slot: Slot, name: str, act: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the process act between the worker's look at the slot and its write there."""
    look = getattr(Slot, name)

    def look_and_act(self: Slot) -> object:
        seen = look(self)
        act()  # type: ignore[operator]
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(Slot, name, look_and_act)
        yield


def test_a_task_that_started_in_the_meantime_is_not_left_out(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    slot.begin(list("abcd"))
    slot.start(0)
    with meanwhile(slot, "_read", lambda: slot.start(1), monkeypatch):
        assert slot.truncate() == ["c", "d"]
    assert slot.view().suspects == ["b"]
    assert not slot.start(2)


def test_a_batch_that_began_in_the_meantime_is_not_cut_off(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is left out of it would be claimed for ever, and never run."""
    slot.begin(list("abcd"))
    slot.start(0)
    with meanwhile(slot, "_read", lambda: slot.begin(list("efgh")), monkeypatch):
        assert set(slot.truncate()) <= set("bcd")  # which this process has completed by now
    assert [slot.start(index) for index in range(4)] == [True] * 4


def test_what_was_cut_off_is_returned_although_the_process_has_its_next_batch(slot: Slot) -> None:
    class Quick(Slot):
        """A process that sees the new end and goes on before the worker looks again."""

        @property
        def _cells(self) -> object:  # type: ignore[override]
            return self

        @_cells.setter
        def _cells(self, cells: memoryview) -> None:
            self._real, self._acts = cells, True

        def __getitem__(self, field: int) -> int:
            return self._real[field]

        def __setitem__(self, field: int, value: int) -> None:
            self._real[field] = value
            if self._acts and self._real[0] == Activity.RUNNING and field == 6 and self._is_cut():
                self._acts = False
                assert not slot.start(1)
                slot.begin(["e", "f", "g"])
                slot.start(2)

        def _is_cut(self) -> bool:
            return self._real[6] % (1 << 20) == 1

    slot.begin(list("abcd"))
    slot.start(0)
    quick = Quick(slot._cells, slot._names, slot._clock)
    assert quick.truncate() == ["b", "c", "d"]
    assert slot.start(0)


def test_a_batch_that_is_being_written_is_not_read(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a process that was killed, or stopped, in the middle of that."""

    class Killed(BaseException):
        pass

    def die(self: Slot) -> int:
        raise Killed

    slot.begin(["an-earlier-one", "and-another"])
    slot.start(0)
    with monkeypatch.context() as patch:
        patch.setattr(Slot, "_now", die)
        with pytest.raises(Killed):
            slot.begin(["a-new-one"])
    view = slot.view()
    assert (view.activity, view.batch, view.suspects, slot.truncate()) == (Activity.WAITING, [], [], [])
    slot.reset()
    slot.begin(["a"])
    assert slot.view().batch == ["a"]


def test_no_list_is_torn_while_a_process_writes_and_this_one_reads() -> None:
    slot = make_slots(1, 64)[0]
    batches = [[f"{letter * 30}-{number}" for number in range(size)] for letter, size in (("a", 3), ("b", 60))]
    writer = os.fork()
    if writer == 0:
        while True:
            for batch in batches:
                slot.begin(batch)
                slot.start(len(batch) - 1)
    try:
        seen = [view for view in (slot.view() for _ in range(20_000)) if view.batch]
    finally:
        os.kill(writer, 9)
        os.waitpid(writer, 0)
    assert {len(view.batch) for view in seen} == {3, 60}
    assert all(view.batch in batches for view in seen)
    # What a dead process had is still there.
    assert slot.view().batch in ([], *batches)


def test_counts_epochs_and_slots_are_each_processes_own() -> None:
    first, second = make_slots(2, 4)
    child = os.fork()
    if child == 0:
        second.begin(["a" * 255] * 4)
        second.count(4)
        second.begin_epoch(2)
        os._exit(0)
    os.waitpid(child, 0)
    assert (second.ended, second.epoch, second.view().batch) == (4, 2, ["a" * 255] * 4)
    assert (first.ended, first.epoch, first.activity) == (0, 0, Activity.LOADING)
    second.reset()
    assert (second.ended, second.epoch, second.activity) == (0, 0, Activity.LOADING)
