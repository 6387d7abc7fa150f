"""heartbeat.py: when the process beside a worker counts as hung, told from what comes through its pipe."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import pytest

from app.serving.sidecar.heartbeat import LOOK_EVERY, MISSED, HeartbeatMonitor, HeartbeatWriter


@dataclass
class Pair:
    """A heart, who listens to it, and the time as both see it."""

    source: IO[bytes]
    output: int
    now: float = 100.0
    excused: bool = False
    heart: HeartbeatWriter = field(init=False)
    heartbeat: HeartbeatMonitor = field(init=False)

    def __post_init__(self) -> None:
        self.heart = HeartbeatWriter(self.output)
        self.heartbeat = HeartbeatMonitor(self.source, lambda: not self.excused, clock=lambda: self.now)

    def looks(self, number: int, *, every: float = LOOK_EVERY) -> list[bool]:
        return [self.look(every) for _ in range(number)]

    def look(self, later: float = LOOK_EVERY) -> bool:
        self.now += later
        return self.heartbeat.has_stopped()


@pytest.fixture
def pair() -> Iterator[Pair]:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source:
        yield Pair(source, write)
    os.close(write)


def test_one_that_beats_goes_on(pair: Pair) -> None:
    for _ in range(5 * MISSED):
        pair.heart.beat()
        assert not pair.look()


def test_one_that_is_silent_for_some_looks_hangs(pair: Pair) -> None:
    pair.heart.beat()
    assert pair.looks(1 + MISSED) == [False] * MISSED + [True]


def test_one_that_never_said_a_word_hangs_too(pair: Pair) -> None:
    assert pair.looks(MISSED)[-1]


def test_one_beat_begins_the_count_anew(pair: Pair) -> None:
    assert not any(pair.looks(MISSED - 1))
    pair.heart.beat()
    assert pair.looks(1 + MISSED) == [False] * MISSED + [True]


def test_it_is_found_out_within_half_a_minute_also_by_one_who_looks_every_five_seconds() -> None:
    assert (1 + MISSED) * 5 <= 30


def test_looks_in_quick_succession_are_one(pair: Pair) -> None:
    """As of a listener who was stopped, or of a thread that waited for the interpreter."""
    assert not any(pair.looks(100, every=LOOK_EVERY / 101))


def test_a_machine_that_slept_is_no_silence(pair: Pair) -> None:
    assert not pair.look(later=3600)
    pair.heart.beat()
    assert not any(pair.looks(MISSED))


def test_a_listener_that_was_stopped_hears_what_was_said_meanwhile(pair: Pair) -> None:
    for _ in range(100_000):  # more than a pipe holds, and nobody waits
        pair.heart.beat()
    assert not pair.look(later=3600)
    assert pair.looks(MISSED) == [False] * (MISSED - 1) + [True]


def test_silence_that_has_an_excuse_does_not_count(pair: Pair) -> None:
    pair.excused = True
    assert not any(pair.looks(5 * MISSED))
    pair.excused = False
    assert pair.looks(MISSED) == [False] * (MISSED - 1) + [True]


def test_a_heart_beats_on_when_nobody_will_listen_any_more() -> None:
    read, write = os.pipe()
    os.close(read)
    HeartbeatWriter(write).beat()
    os.close(write)


def test_the_end_of_the_pipe_is_no_beat(pair: Pair) -> None:
    read, write = os.pipe()
    os.close(write)
    with os.fdopen(read, "rb") as source:
        heartbeat = HeartbeatMonitor(source, lambda: True, clock=lambda: pair.now)
        for _ in range(MISSED):
            pair.now += LOOK_EVERY
            stopped = heartbeat.has_stopped()
    assert stopped
