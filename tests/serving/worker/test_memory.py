"""memory.py: memory of this process, and its limit."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from app.serving.memory import memory_mb
from app.serving.worker import memory
from app.serving.worker.memory import memory_check


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is the peak")
def test_the_memory_of_this_process_grows_and_shrinks() -> None:
    before = memory_mb()
    ballast = bytearray(b"x" * 64 * 2**20)
    assert memory_mb() - before == pytest.approx(64, abs=8)
    del ballast
    assert memory_mb() - before < 8


def test_without_proc_it_is_the_peak(tmp_path: Path) -> None:
    assert 10 < memory_mb(tmp_path / "statm") < 100_000


def test_without_a_limit_a_process_goes_on() -> None:
    assert memory_check(None)()


def test_a_process_beyond_the_limit_is_to_be_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(memory, "MEMORY_CHECK_INTERVAL", 0)
    assert memory_check(100_000)()
    assert not memory_check(1)()
    assert "more than WORKER_MAX_MB, 1 MB" in caplog.text


def test_the_memory_is_looked_at_some_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(memory, "MEMORY_CHECK_INTERVAL", 600)
    monkeypatch.setattr(memory, "memory_mb", lambda: looks.append(1) or 1.0)
    check = memory_check(100)
    assert all(check() for _ in range(1000))
    assert len(looks) <= 1
