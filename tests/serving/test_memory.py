"""memory.py: memory that this process holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.serving.memory import memory_mb


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is the peak")
def test_the_memory_of_this_process_grows_and_shrinks() -> None:
    before = memory_mb()
    ballast = bytearray(b"x" * 64 * 2**20)
    assert memory_mb() - before == pytest.approx(64, abs=8)
    del ballast
    assert memory_mb() - before < 8


def test_without_proc_it_is_the_peak(tmp_path: Path) -> None:
    assert 10 < memory_mb(tmp_path / "statm") < 100_000
