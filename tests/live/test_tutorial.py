"""The tutorial, followed to the letter: its commands, its files, and its output."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from doubles.receiver import Receiver
from support.driving import BACKENDS, DENZEL, docker
from support.paths import EXAMPLE, REPOSITORY
from support.ports import find_free_port
from support.reader import Reader
from support.tutorial import Command, File, steps

PAGE = REPOSITORY / "docs" / "tutorial.md"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    folder = tmp_path / "reader"
    folder.mkdir()
    reader = Reader(folder)
    try:
        yield reader
    finally:
        reader.close_second_terminal()


def without_docker(page: str) -> str:
    """The page for a reader with no Docker, who launches on the local backend and deploys by copying the folder."""
    page = page.replace("\n$ denzel launch", "\n$ denzel launch --backend local").replace(
        "host.docker.internal", "127.0.0.1"
    )
    page = page.replace("docker compose up --build --detach --wait", "denzel launch --backend local")
    page = re.sub(r"^\$ docker .*--?version\n.*\n", "", page, flags=re.MULTILINE)
    return re.sub(r"^\$ docker compose version\n.*\n", "", page, flags=re.MULTILINE).replace('"/project/', '".../')


@pytest.mark.slow
@pytest.mark.usefixtures("package_cache")
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_tutorial_works_as_it_is_written(reader: Reader, backend: str) -> None:
    name = f"iris_{secrets.token_hex(4)}"
    page = PAGE.read_text().replace("iris_classifier", name)
    if backend == "local":
        page = without_docker(page)
    for port in ("8000", "5555", "9000"):
        page = re.sub(rf"\b{port}\b", str(find_free_port()), page)
    try:
        reader.follow(page)
        if backend == "docker":
            label = f"label=com.docker.compose.project={name}"
            assert docker("ps", "--all", "--quiet", "--filter", label) == ""
            assert docker("volume", "ls", "--quiet", "--filter", label) == ""
    finally:
        project = reader.folder / name
        if project.exists():
            subprocess.run([DENZEL, "shutdown", "--purge", "--yes"], cwd=project, capture_output=True, check=False)


def test_a_status_is_polled_until_it_matches_the_page(reader: Reader, receiver: Receiver) -> None:
    receiver.content = lambda: b"DELIVERED\n" if len(receiver.received) == 3 else b"PENDING\n"
    reader.type(Command(f"curl -s {receiver.uri(path='/status/TASK_ID')}", ["DELIVERED"]))
    with pytest.raises(AssertionError, match="PENDING"):
        reader.type(Command(f"curl -s {receiver.uri(path='/info')}", ["DELIVERED"]))
    assert len(receiver.received) == 4


def test_the_tutorials_files_are_the_examples() -> None:
    written = {Path(step.path).name: step.text for step in steps(PAGE.read_text()) if isinstance(step, File)}
    for example in ("train.py", "pipeline.py", "info.txt", "requirements.txt", "request.json"):
        assert written[example] == (EXAMPLE / example).read_text(), example


def test_the_training_script_trains(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE / "train.py", tmp_path / "model.pkl"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("accuracy on the test set: ")
    assert (tmp_path / "model.pkl").stat().st_size > 1000
