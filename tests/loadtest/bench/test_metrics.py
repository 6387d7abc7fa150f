"""Percentiles, histograms and their charts."""

from __future__ import annotations

import random

import pytest

from denzel.loadtest.bench.metrics import histogram, latency, percentile


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


def test_without_values_there_is_no_latency_and_no_histogram() -> None:
    assert latency([]) is None
    assert histogram([]) == []


def test_a_histogram_counts_every_value_once() -> None:
    values = [random.Random(seed).lognormvariate(-5, 1) for seed in range(5000)]
    buckets = histogram(values)
    assert sum(bucket.count for bucket in buckets) == 5000
    bounds = [bucket.up_to for bucket in buckets]
    assert bounds == sorted(set(bounds))
    assert bounds[-1] >= max(values)
    for below, bucket in zip([0.0, *bounds], buckets, strict=False):
        assert bucket.count == sum(below < value <= bucket.up_to for value in values)


def test_a_histogram_has_round_bounds() -> None:
    buckets = histogram([0.0011, 0.0014, 0.0021, 0.0049])
    assert [(bucket.up_to, bucket.count) for bucket in buckets] == [(0.0015, 2), (0.002, 0), (0.003, 1), (0.005, 1)]
    assert [bucket.up_to for bucket in histogram([0.007])] == [0.007]
    assert [bucket.up_to for bucket in histogram([0.008, 0.012])] == [0.01, 0.015]


def test_outliers_share_one_bucket() -> None:
    buckets = histogram([0.002] * 2000 + [9.5])
    assert [(bucket.up_to, bucket.count) for bucket in buckets] == [(0.002, 2000), (9.5, 1)]


def test_a_duration_of_zero_has_a_bucket() -> None:
    assert [bucket.count for bucket in histogram([0.0, 0.0])] == [2]
