"""check.py: the pipeline of a real project, imported in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.serving.worker.model import check as checked
from app.serving.worker.model.check import FAULT
from denzel.lifecycle import rehearsal
from denzel.project.folder import Project
from denzel.project.scaffold import start_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return start_project("iris", tmp_path)


def check(project: Project) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.serving.worker.model.check"]
    return subprocess.run(command, cwd=project.root, capture_output=True, text=True, timeout=60)


def test_the_command_and_the_program_agree() -> None:
    assert ("python", "-m", checked.__name__) == rehearsal.CHECK
    assert rehearsal.FAULT == FAULT


def test_a_good_pipeline_passes(project: Project) -> None:
    done = check(project)
    assert (done.returncode, done.stderr) == (0, "")


def test_threads_of_a_pipeline_do_not_hold_up_the_check(project: Project) -> None:
    with project.pipeline.open("a") as file:
        file.write("import threading\nthreading.Thread(target=threading.Event().wait).start()\n")
    assert check(project).returncode == 0


@pytest.mark.parametrize(
    ("code", "fault", "hint"),
    [
        ("def (\n", "pipeline.py cannot be imported: SyntaxError: invalid syntax (", "denzel restart"),
        (
            "import vocabularies\n",
            "pipeline.py cannot be imported: ModuleNotFoundError: No module named 'vocabularies'",
            "Add vocabularies to requirements.txt",
        ),
        ("raise SystemExit(3)\n", "pipeline.py cannot be imported: SystemExit: 3", "denzel restart"),
        (
            "def process(data): pass\n",
            "pipeline.py cannot be used: process takes (data), and is called as process(model, json_data)",
            "Fix app/logic/pipeline.py",
        ),
    ],
)
def test_a_pipeline_that_cannot_be_used_is_named_with_a_hint(
    project: Project, code: str, fault: str, hint: str
) -> None:
    with project.pipeline.open("a") as file:
        file.write(code)
    done = check(project)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    report = json.loads(last.removeprefix(FAULT))
    assert report["fault"].startswith(fault)
    assert hint in report["hint"]
