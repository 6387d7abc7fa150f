"""scoreboard.py: what the worker's main process and its pool processes tell each other."""

from __future__ import annotations

import os

import pytest

from app.serving.worker.batching.scoreboard import ALL, NOT_STARTED, Scoreboard


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard()


def test_a_process_goes_through_its_parcel(board: Scoreboard) -> None:
    board.begin(7, 2)
    assert board.place(7) == NOT_STARTED
    assert board.enter(7, 0)
    assert board.enter(7, 1)
    assert board.place(7) == 1
    assert not board.enter(7, 2)


def test_a_process_that_runs_all_at_once_says_so(board: Scoreboard) -> None:
    board.begin(0, 5)
    assert board.enter(0, ALL)
    assert board.place(0) == ALL


def test_what_is_cut_off_is_not_entered(board: Scoreboard) -> None:
    board.begin(3, 5)
    board.enter(3, 1)
    assert board.cut(3) == 2
    assert not board.enter(3, 2)


def test_a_task_that_was_entered_before_the_cut_was_seen_is_not_given_away() -> None:
    class Racing(Scoreboard):
        """A board on which the process goes on to the next task between two looks of the other."""

        def place(self, slot: int) -> int:
            before = super().place(slot)
            self.enter(slot, before + 1)
            return before

    racing = Racing()
    racing.begin(0, 5)
    racing.enter(0, 0)
    assert racing.cut(0) == 2  # it was at 0 when the cut was made, and at 1 when that was checked


def test_slots_do_not_touch_each_other(board: Scoreboard) -> None:
    board.begin(1, 3)
    board.begin(2, 9)
    board.enter(2, 4)
    board.cut(2)
    assert (board.place(1), board.enter(1, 2)) == (NOT_STARTED, True)


def test_a_forked_process_writes_what_this_one_reads(board: Scoreboard) -> None:
    board.begin(0, 9)
    child = os.fork()
    if child == 0:
        board.enter(0, 6)
        os._exit(0)
    os.waitpid(child, 0)
    assert board.place(0) == 6


def test_a_process_at_the_queue_says_which_round_it_runs_and_since_when() -> None:
    now = [5.0]
    board = Scoreboard(lambda: now[0])
    board.begin(3, 2, stays=True)
    assert (board.round(3), board.began(3), board.may_stay(3)) == (0, (5.0, False), True)
    now[0] = 6.0
    board.rest(3)
    assert board.began(3) == (6.0, True)
    now[0] = 7.0
    board.begin_round(3, 4, 1)
    assert (board.round(3), board.began(3), board.place(3)) == (1, (7.0, False), NOT_STARTED)
    assert board.enter(3, 3)
    assert not board.enter(3, 4)


def test_a_process_that_is_called_back_or_cut_short_may_not_stay(board: Scoreboard) -> None:
    board.begin(3, 2, stays=True)
    board.call_back(3)
    assert not board.may_stay(3)
    board.begin(4, 2, stays=True)
    board.cut(4)
    assert not board.may_stay(4)
    board.begin(5, 2)
    assert not board.may_stay(5)
