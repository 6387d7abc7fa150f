"""memory_limit.py: the limit of the memory that a predicting process holds."""

from __future__ import annotations

import logging

import pytest

from app.serving.worker import memory_limit
from app.serving.worker.memory_limit import memory_check


def test_without_a_limit_a_process_goes_on() -> None:
    assert memory_check(None)()


def test_a_process_beyond_the_limit_is_to_be_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(memory_limit, "MEMORY_CHECK_INTERVAL", 0)
    assert memory_check(100_000)()
    assert not memory_check(1)()
    assert "more than WORKER_MAX_MB, 1 MB" in caplog.text


def test_the_memory_is_looked_at_some_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(memory_limit, "MEMORY_CHECK_INTERVAL", 600)
    monkeypatch.setattr(memory_limit, "memory_mb", lambda: looks.append(1) or 1.0)
    check = memory_check(100)
    assert all(check() for _ in range(1000))
    assert len(looks) <= 1
