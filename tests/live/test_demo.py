"""`make demo` for somebody who has just cloned the repository and has nothing but Python and make."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.paths import REPOSITORY

#: A user who owns nothing else on this machine.
STRANGER = 54321

PATH = "/usr/local/bin:/usr/bin:/bin"


@pytest.mark.slow
@pytest.mark.local
def test_the_demo_works_from_a_fresh_clone_for_an_unprivileged_user(own_folder: Path) -> None:
    clone, home, temporary = own_folder / "clone", own_folder / "home", own_folder / "tmp"
    copy_repository(clone)
    for folder in (home, temporary):
        folder.mkdir()
    python, user = sys.executable, None
    if os.geteuid() == 0:
        # A file system that root alone may enter is no place for the stranger, nor is root's own Python.
        python, user = system_python(), STRANGER
        subprocess.run(["chown", "-R", f"{STRANGER}:{STRANGER}", own_folder], check=True)
    done = subprocess.run(
        ["make", "demo", f"PYTHON={python}"],
        cwd=clone,
        env={"PATH": PATH, "HOME": str(home), "TMPDIR": str(temporary)},
        user=user,
        group=user,
        extra_groups=[] if user else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r'accepted  \{"status": "success", "data": \{"task_id": "[0-9a-f-]{36}"\}\}', done.stdout)
    assert 'callback  {"a123": "Iris-setosa", "b456": "Iris-virginica"}' in done.stdout
    assert re.search(r"http://127.0.0.1:\d+ shows 1 task done", done.stdout)
    assert list(temporary.iterdir()) == [], "nothing is left in the temporary folder"
    assert [process for process in psutil.process_iter() if belongs(process, own_folder)] == [], "no process is left"


def copy_repository(clone: Path) -> None:
    """Copy the files that git tracks, as they are in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, clone / name)


def system_python() -> str:
    """A Python that every user of this machine may run."""
    found = [name for name in ("python3.14", "python3.13", "python3.12", "python3.11") if shutil.which(name, path=PATH)]
    assert found, f"this test, run as root, needs a Python of 3.11 or newer in {PATH}"
    return str(shutil.which(found[0], path=PATH))


def belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(str(folder) in part for part in (process.cwd(), *process.cmdline()))
    except psutil.Error:
        return False
