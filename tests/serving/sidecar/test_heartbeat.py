"""heartbeat.py: hangs of the sidecar, noticed by missing heartbeats in the pipe."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import pytest

from app.serving.sidecar.heartbeat import BEAT_CHECK_INTERVAL, MAX_MISSED, HeartbeatMonitor, HeartbeatWriter


@dataclass
class Pair:
    """A writer, its monitor, and the time."""

    source: IO[bytes]
    output: int
    now: float = 100.0
    expected: bool = True
    writer: HeartbeatWriter = field(init=False)
    monitor: HeartbeatMonitor = field(init=False)

    def __post_init__(self) -> None:
        self.writer = HeartbeatWriter(self.output)
        self.monitor = HeartbeatMonitor(self.source, lambda: self.expected, clock=lambda: self.now)

    def checks(self, number: int, *, every: float = BEAT_CHECK_INTERVAL) -> list[bool]:
        return [self.check(every) for _ in range(number)]

    def check(self, later: float = BEAT_CHECK_INTERVAL) -> bool:
        self.now += later
        return self.monitor.is_overdue()


@pytest.fixture
def pair() -> Iterator[Pair]:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source:
        yield Pair(source, write)
    os.close(write)


def test_a_process_that_beats_is_not_overdue(pair: Pair) -> None:
    for _ in range(5 * MAX_MISSED):
        pair.writer.beat()
        assert not pair.check()


def test_a_process_that_misses_some_beats_hangs(pair: Pair) -> None:
    pair.writer.beat()
    assert pair.checks(1 + MAX_MISSED) == [False] * MAX_MISSED + [True]


def test_a_process_that_never_beat_hangs_too(pair: Pair) -> None:
    assert pair.checks(MAX_MISSED)[-1]


def test_one_beat_resets_the_count(pair: Pair) -> None:
    assert not any(pair.checks(MAX_MISSED - 1))
    pair.writer.beat()
    assert pair.checks(1 + MAX_MISSED) == [False] * MAX_MISSED + [True]


def test_a_hang_is_noticed_within_half_a_minute_also_by_checks_every_five_seconds() -> None:
    assert (1 + MAX_MISSED) * 5 <= 30


def test_checks_in_quick_succession_count_as_one(pair: Pair) -> None:
    """As of a monitor that was stopped, or of a thread that waited for the interpreter."""
    assert not any(pair.checks(100, every=BEAT_CHECK_INTERVAL / 101))


def test_a_machine_that_slept_has_missed_one_beat(pair: Pair) -> None:
    assert not pair.check(later=3600)
    pair.writer.beat()
    assert not any(pair.checks(MAX_MISSED))


def test_a_monitor_that_was_stopped_reads_the_beats_of_meanwhile(pair: Pair) -> None:
    for _ in range(100_000):  # more than a pipe holds, and no beat waits
        pair.writer.beat()
    assert not pair.check(later=3600)
    assert pair.checks(MAX_MISSED) == [False] * (MAX_MISSED - 1) + [True]


def test_beats_that_are_not_expected_are_not_missed(pair: Pair) -> None:
    pair.expected = False
    assert not any(pair.checks(5 * MAX_MISSED))
    pair.expected = True
    assert pair.checks(MAX_MISSED) == [False] * (MAX_MISSED - 1) + [True]


def test_beats_into_a_broken_pipe_are_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    HeartbeatWriter(write).beat()
    os.close(write)


def test_the_end_of_the_pipe_is_no_beat(pair: Pair) -> None:
    read, write = os.pipe()
    os.close(write)
    with os.fdopen(read, "rb") as source:
        monitor = HeartbeatMonitor(source, lambda: True, clock=lambda: pair.now)
        for _ in range(MAX_MISSED):
            pair.now += BEAT_CHECK_INTERVAL
            overdue = monitor.is_overdue()
    assert overdue
