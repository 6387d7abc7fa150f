"""Where a test types its commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from denzel.project.dotenv import KEYS


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it the current folder, of a terminal in which no setting is set."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
