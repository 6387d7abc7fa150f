"""scoreboard.py: shared memory between the worker's main process and its pool processes."""

from __future__ import annotations

import os

import pytest

from app.serving.worker.batching.scoreboard import ALL, NOT_STARTED, Scoreboard


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


def test_a_process_goes_through_its_batch(scoreboard: Scoreboard) -> None:
    scoreboard.assign(7, 2)
    assert scoreboard.index(7) == NOT_STARTED
    assert scoreboard.start(7, 0)
    assert scoreboard.start(7, 1)
    assert scoreboard.index(7) == 1
    assert not scoreboard.start(7, 2)


def test_a_process_that_runs_all_tasks_at_once_has_the_index_all(scoreboard: Scoreboard) -> None:
    scoreboard.assign(0, 5)
    assert scoreboard.start(0, ALL)
    assert scoreboard.index(0) == ALL


def test_a_truncated_task_is_not_started(scoreboard: Scoreboard) -> None:
    scoreboard.assign(3, 5)
    scoreboard.start(3, 1)
    assert scoreboard.truncate(3) == 2
    assert not scoreboard.start(3, 2)


def test_a_task_that_started_before_the_new_end_was_seen_is_not_left_out() -> None:
    class Racing(Scoreboard):
        """A scoreboard on which the process starts the next task after each read of its index."""

        def index(self, slot: int) -> int:
            before = super().index(slot)
            self.start(slot, before + 1)
            return before

    racing = Racing()
    racing.assign(0, 5)
    racing.start(0, 0)
    assert racing.truncate(0) == 2  # it ran 0 when it was truncated, and 1 when that was checked


def test_slots_are_independent(scoreboard: Scoreboard) -> None:
    scoreboard.assign(1, 3)
    scoreboard.assign(2, 9)
    scoreboard.start(2, 4)
    scoreboard.truncate(2)
    assert (scoreboard.index(1), scoreboard.start(1, 2)) == (NOT_STARTED, True)


def test_a_forked_process_writes_what_this_one_reads(scoreboard: Scoreboard) -> None:
    scoreboard.assign(0, 9)
    child = os.fork()
    if child == 0:
        scoreboard.start(0, 6)
        os._exit(0)
    os.waitpid(child, 0)
    assert scoreboard.index(0) == 6


def test_a_poller_publishes_its_round_and_since_when_it_runs() -> None:
    now = [5.0]
    scoreboard = Scoreboard(lambda: now[0])
    scoreboard.assign(3, 2, polls=True)
    assert (scoreboard.round(3), scoreboard.since(3), scoreboard.may_poll(3)) == (0, (5.0, False), True)
    now[0] = 6.0
    scoreboard.idle(3)
    assert scoreboard.since(3) == (6.0, True)
    now[0] = 7.0
    scoreboard.assign_round(3, 4, 1)
    assert (scoreboard.round(3), scoreboard.since(3), scoreboard.index(3)) == (1, (7.0, False), NOT_STARTED)
    assert scoreboard.start(3, 3)
    assert not scoreboard.start(3, 4)


def test_a_process_whose_grant_was_revoked_or_whose_batch_was_truncated_may_not_poll(scoreboard: Scoreboard) -> None:
    scoreboard.assign(3, 2, polls=True)
    scoreboard.revoke_grant(3)
    assert not scoreboard.may_poll(3)
    scoreboard.assign(4, 2, polls=True)
    scoreboard.truncate(4)
    assert not scoreboard.may_poll(4)
    scoreboard.assign(5, 2)
    assert not scoreboard.may_poll(5)
