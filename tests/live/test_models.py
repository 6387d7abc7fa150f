"""docs/models.md: each of its whole projects, followed to the letter on the backend `local`."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.driving import DENZEL
from support.paths import REPOSITORY
from support.ports import find_free_port
from support.reader import Reader
from uv import find_uv_bin

_PAGE = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")

#: The sections with commands, by their headings.
SECTIONS = {
    heading: section
    for heading, _, section in (part.partition("\n") for part in _PAGE.split("\n## "))
    if "```console" in section
}

_INSTALLED = re.compile(r"^\$ python -m pip install (.*)$", re.MULTILINE)


@pytest.fixture
def reader(tmp_path: Path, package_cache: None) -> Iterator[Reader]:
    """A reader with an environment of their own, for what models are trained with."""
    folder = tmp_path / "reader"
    folder.mkdir()
    reader = Reader(folder)
    venv = tmp_path / "training"
    subprocess.run([find_uv_bin(), "venv", "--quiet", venv], check=True)
    reader.environment |= {"VIRTUAL_ENV": str(venv), "PATH": f"{venv}/bin:{reader.environment['PATH']}"}
    try:
        yield reader
    finally:
        reader.close_second_terminal()
        for settings in folder.glob("*/.env"):
            subprocess.run([DENZEL, "shutdown", "--purge", "--yes"], cwd=settings.parent, check=False)


@pytest.mark.slow
@pytest.mark.local
@pytest.mark.parametrize("heading", SECTIONS)
def test_a_model_is_deployed_as_the_page_says(reader: Reader, heading: str) -> None:
    section = SECTIONS[heading]
    for packages in _INSTALLED.findall(section):
        command = [find_uv_bin(), "pip", "install", "--quiet", *packages.split()]
        subprocess.run(command, env=reader.environment, check=True)
    for port in ("8000", "5555"):
        section = section.replace(port, str(find_free_port()))
    reader.follow(section)
