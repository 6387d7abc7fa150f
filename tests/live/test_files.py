"""Files from clients on real services: the pipelines of docs/files.md, and the commands beside them."""

from __future__ import annotations

import json
import math
import re
import struct
import subprocess
import wave
import zlib
from pathlib import Path

import pytest
import requests
from support.driving import Driven, Render
from support.paths import REPOSITORY

PAGE = (REPOSITORY / "docs" / "files.md").read_text()
EXAMPLE = re.compile(r"<!-- pipeline: (\w+) -->\n```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
EXAMPLES = {name: (code, session) for name, code, session in EXAMPLE.findall(PAGE)}


@pytest.fixture(scope="module")
def served(render: Render) -> Driven:
    """A project with Pillow."""
    driven = render("local")
    (driven.root / "requirements.txt").write_text("pillow\n")
    driven.launch()
    return driven


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the files that the page sends."""
    (tmp_path / "cat.png").write_bytes(png(640, 480))
    (tmp_path / "flowers.csv").write_text("petal-length\n1.4\n4.7\n4.5\n")
    with wave.open(str(tmp_path / "bell.wav"), "wb") as wav:
        wav.setparams((1, 2, 8000, 0, "NONE", ""))
        samples = [round(12000 * math.cos(number / 4)) for number in range(4000)]
        wav.writeframes(struct.pack("<4000h", *samples))
    return tmp_path


def png(width: int, height: int) -> bytes:
    """A black image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" * (width + 1)) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.local
@pytest.mark.parametrize("name", ["image", "csv", "audio"])
def test_the_pipelines_for_files_work_with_their_commands(served: Driven, files: Path, name: str) -> None:
    code, session = EXAMPLES[name]
    served.pipeline.write_text(code)
    served.denzel("restart")
    typed = re.findall(r"\$ (curl .*)\n(.*)\n", session)
    assert len(typed) == 2
    for command, expected in typed:
        assert json.loads(run(command.replace("http://localhost:8000", served.api), files)) == json.loads(expected)
    answer = requests.post(f"{served.api}/predict", files={"other": ("a.png", b"1")}, timeout=30)
    assert (answer.status_code, answer.json()["title"]) == (400, "Bad input format")


def run(command: str, folder: Path) -> str:
    return subprocess.run(
        ["bash", "-c", f"{command} --silent --show-error"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
