"""Percentiles of latencies."""

from __future__ import annotations

import random

import pytest

from denzel.loadtest.bench.metrics import latency, percentile


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(1, 50, 1), (2, 50, 1), (3, 50, 2), (100, 50, 50), (100, 99, 99), (101, 99, 100), (1000, 99, 990), (4, 90, 4)],
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    count: int, percent: float, expected: int
) -> None:
    assert percentile(range(1, count + 1), percent) == expected


def test_latencies_need_no_order() -> None:
    values = [number / 1000 for number in range(1, 1001)]
    random.Random(1).shuffle(values)
    found = latency(values)
    assert found is not None
    assert (found.count, found.p50, found.p90, found.p99, found.max) == (1000, 0.5, 0.9, 0.99, 1.0)


def test_without_values_there_is_no_latency() -> None:
    assert latency([]) is None
