"""The command on disks that it cannot write to."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from denzel import cli
from denzel.project.storage import storage_failure


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB, on which two projects have no room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def mount(folder: Path, *arguments: str | Path) -> None:
    done = subprocess.run(["mount", *arguments, folder], capture_output=True, text=True)
    if done.returncode and not os.environ.get("DENZEL_REQUIRE_TOOLS"):
        pytest.skip(f"a test disk cannot be mounted: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def denzel(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def fill(folder: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        shutil.copyfile("/dev/zero", folder / "filling")


def test_a_full_disk_is_named_and_nothing_is_changed(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_disk)
    assert denzel("startproject", "iris").exit_code == 0
    fill(small_disk)
    settings = (small_disk / "iris" / ".env").read_text()
    result = denzel("startproject", "another")
    assert result.exit_code == 1
    assert f"Error: {small_disk}" in result.stderr
    assert "cannot be used: No space left on device.\nHint: Make room there (df -h " in result.stderr
    assert sorted(path.name for path in small_disk.iterdir()) == ["filling", "iris"]
    monkeypatch.chdir(small_disk / "iris")
    # Whether an engine of Docker runs here or not.
    monkeypatch.setenv("BACKEND", "local")
    for command in (["launch"], ["response", "--sync"]):
        result = denzel(*command)
        assert result.exit_code == 1
        assert "cannot be used: No space left on device." in result.stderr
    assert denzel("shutdown").exit_code == 0, "what runs can be removed all the same"
    assert (small_disk / "iris" / ".env").read_text() == settings


def test_a_read_only_disk_is_named(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_disk)
    assert denzel("startproject", "iris").exit_code == 0
    monkeypatch.chdir(small_disk / "iris")
    mount(small_disk, "-o", "remount,ro")
    for command in (["launch", "--backend", "local"], ["start"], ["response", "--sync"], ["restart"], ["shutdown"]):
        result = denzel(*command)
        assert result.exit_code == 1
        assert result.stderr == (
            f"Error: {small_disk}/iris/.denzel cannot be used: Read-only file system.\n"
            "Hint: Make it writable (mount shows how it is mounted), or copy the project to a disk that is.\n"
        )


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert denzel("startproject", "iris").exit_code == 0
    monkeypatch.chdir(tmp_path / "iris")
    Path(".denzel").touch()
    result = denzel("launch", "--backend", "local")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path}/iris/.denzel cannot be used: ")
    assert result.stderr.endswith("Hint: A file is where a folder should be: move it away.\n")


def test_errors_of_other_kinds_keep_their_traceback() -> None:
    assert storage_failure(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")) is None
    assert storage_failure(FileNotFoundError(errno.ENOENT, "No such file", "denzel/a.py")) is None
    assert storage_failure(OSError("without a number")) is None
