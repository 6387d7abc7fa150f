"""sizing.py: sizes of the next batches, from the times of the last ones."""

from __future__ import annotations

import pytest

from app.serving.worker.batching.sizing import MAX_IN_TURN, AdaptiveBatchSize


def size(*, deliveries: int = 3, batches: bool = False) -> AdaptiveBatchSize:
    return AdaptiveBatchSize(batch_size=32, deliveries=deliveries, predicts_batches=batches)


def test_until_the_first_result_a_process_takes_one_task_and_is_not_cheap() -> None:
    assert (size().limit(), size().is_cheap, size().should_split) == (1, False, False)


@pytest.mark.parametrize(("seconds", "limit"), [(0.0, MAX_IN_TURN), (0.0005, 10), (0.2, 1)])
def test_tasks_in_turn_are_batched_as_far_as_they_are_quick(seconds: float, limit: int) -> None:
    in_turn = size()
    in_turn.observe(1, seconds)
    assert in_turn.limit() == limit


def test_one_slow_task_among_quick_ones_is_soon_forgotten() -> None:
    in_turn = size()
    in_turn.observe(1, 600.0)
    assert (in_turn.limit(), in_turn.is_cheap) == (1, False)
    for _ in range(20):
        in_turn.observe(1, 0.0005)
    assert (in_turn.limit(), in_turn.is_cheap) == (4, True)


def test_predict_batch_gets_as_many_as_the_setting_and_shares_slow_ones() -> None:
    batched = size(batches=True)
    assert (batched.limit(), batched.should_split) == (32, False)
    batched.observe(32, 0.0032)
    assert (batched.limit(), batched.should_split, batched.is_cheap) == (32, False, False)
    for _ in range(20):
        batched.observe(1, 0.04)
    assert (batched.limit(), batched.should_split) == (32, True)


def test_a_process_that_takes_tasks_in_turn_never_splits() -> None:
    in_turn = size()
    in_turn.observe(1, 0.2)
    assert not in_turn.should_split


@pytest.mark.parametrize("batches", [False, True])
def test_with_one_delivery_every_task_is_alone(batches: bool) -> None:
    isolated = size(deliveries=1, batches=batches)
    isolated.observe(1, 0.0)
    assert isolated.limit() == 1


def test_a_batch_that_was_cut_off_before_its_first_task_is_no_sample() -> None:
    in_turn = size()
    in_turn.observe(0, 5.0)
    assert in_turn.limit() == 1
    assert not in_turn.is_cheap
