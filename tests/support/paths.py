"""Paths of the repository that tests read from."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PROJECT = REPOSITORY / "denzel" / "templates" / "project"
EXAMPLE = REPOSITORY / "examples" / "iris"
