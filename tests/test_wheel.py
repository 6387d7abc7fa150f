"""Contents of the wheel: an installation from it renders the same project as the checkout."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from support.paths import REPOSITORY

from denzel.project.scaffold import start_project

SECRETS = re.compile("^(REDIS_PASSWORD|CALLBACK_SECRET|MONITOR_PASSWORD)=.*$", re.MULTILINE)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what the repository holds, compiled files included, which must not get into it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    shutil.copytree(REPOSITORY / "denzel", folder / "denzel")
    stale = folder / "denzel" / "templates" / "project" / "app" / "__pycache__" / "stale.cpython-313.pyc"
    stale.parent.mkdir(exist_ok=True)
    stale.write_bytes(b"")
    # The source distribution, and the wheel from that.
    _python("-m", "build", "--outdir", folder / "dist", folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment, into which the wheel was installed with what it asks for."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder)
    _python("-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", wheel)
    return folder / "bin"


def _python(*arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def _rendered(project: Path) -> dict[str, tuple[int, str]]:
    """Mode and text of every file and folder, the secrets left out."""
    return {
        str(path.relative_to(project)): (
            stat.S_IMODE(path.stat().st_mode),
            SECRETS.sub(r"\1=", path.read_text()) if path.is_file() else "",
        )
        for path in (project, *project.rglob("*"))
    }


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    files = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "denzel").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name) for name in archive.namelist() if not Path(name).parts[0].endswith(".dist-info")}
    assert names == {path for path in files if "__pycache__" not in path.parts}


def test_the_installed_command_runs(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run([installed / "denzel", "status"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    subprocess.run([installed / "python", "-c", "import denzel.backends.docker.backend"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("gpu", [False, True])
def test_the_installed_command_renders_what_the_checkout_does(installed: Path, tmp_path: Path, gpu: bool) -> None:
    option = "--gpu" if gpu else "--no-gpu"
    subprocess.run(
        [installed / "denzel", "startproject", "iris", option], cwd=tmp_path, check=True, capture_output=True
    )
    (tmp_path / "checkout").mkdir()
    checkout = start_project("iris", tmp_path / "checkout", gpu=gpu)
    assert _rendered(tmp_path / "iris") == _rendered(checkout.root)
