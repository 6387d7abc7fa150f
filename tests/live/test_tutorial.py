"""The tutorial, followed to the letter: its commands, its files, and its output."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from doubles.receiver import Receiver
from support.driving import BACKENDS, DENZEL, docker
from support.paths import EXAMPLE, REPOSITORY
from support.ports import find_free_port
from support.tutorial import Command, File, SecondTerminal, matches, steps
from support.waiting import until

PAGE = REPOSITORY / "docs" / "tutorial.md"


class Reader:
    """Somebody at two terminals, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.current = folder
        self.task_id = ""
        self.second: subprocess.Popen[bytes] | None = None
        self.second_output = folder.parent / "second-terminal"
        self.second_read = 0
        self.environment = {**os.environ, "PATH": f"{Path(DENZEL).parent}:{os.environ['PATH']}"}

    def write(self, step: File) -> None:
        path = self.folder / step.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text)

    def type(self, step: Command) -> None:
        command = step.text.replace("TASK_ID", self.task_id)
        if step.second_terminal:
            with self.second_output.open("wb") as output:
                self.second = subprocess.Popen(
                    ["bash", "-c", f"exec {command}"],
                    cwd=self.current,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            self.sees(step.output)
            return
        if "--purge" in command:
            # It asks when a callback has not been sent yet.
            until(lambda: self.run("denzel callbacks --json")[0].strip() == "[]", what="the last callback")
        shown, code = self.run(command)
        deadline = time.monotonic() + 30
        # The end of a task, or of its callback's delivery, is noted a moment after the reader has seen it.
        while step.asks_for_a_status and not matches(step.output, shown) and time.monotonic() < deadline:
            time.sleep(0.2)
            shown, code = self.run(command)
        self.task_id = (re.findall(r'"task_id": "([0-9a-f-]{36})"', shown) or [self.task_id])[-1]
        assert not step.output or matches(step.output, shown), f"$ {command}\n{shown}\nis not\n{step.output}"
        expected = "1" if any(line.startswith("Error:") for line in step.output) else "0"
        assert code == expected, f"$ {command}\n{shown}\nexited with {code}"

    def run(self, command: str) -> tuple[str, str]:
        """What a command shows in the first terminal, and its exit code."""
        end = secrets.token_hex(8)
        done = subprocess.run(
            ["bash", "-c", f'{command}\nprintf "\\n{end} %s %s" "$?" "$PWD"'],
            cwd=self.current,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        shown, _, rest = done.stdout.rpartition(f"\n{end} ")
        code, _, current = rest.partition(" ")
        self.current = Path(current)
        return shown, code

    def sees(self, expected: list[str]) -> None:
        """Wait until the second terminal shows the text of the page, after its earlier output."""

        def shown() -> bool:
            return matches(expected, self.second_output.read_text()[self.second_read :])

        until(shown, within=60, what=f"the second terminal to show {expected}")
        self.second_read = len(self.second_output.read_text())

    def close_second_terminal(self) -> None:
        if self.second is not None:
            self.second.terminate()
            self.second.wait()
            self.second = None


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
        for step in steps(page):
            match step:
                case File():
                    reader.write(step)
                case Command():
                    reader.type(step)
                case SecondTerminal(output=None):
                    reader.close_second_terminal()
                case SecondTerminal(output=output):
                    assert output is not None
                    reader.sees(output)
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
