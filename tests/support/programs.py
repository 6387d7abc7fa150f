"""Programs that tests write for themselves."""

from __future__ import annotations

from pathlib import Path


def program(path: Path, text: str = "exit 0") -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
