"""openmp.py: one thread for a while; each test in a process of its own, as a loaded library stays."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.paths import PROJECT

#: Loads a library outside or inside, and prints its number of threads inside and afterwards.
CODE = """
import os
{outside}
from app.serving.worker.model import openmp
with openmp.one_thread():
    {inside}
    print([openmp._threads(path) for path in openmp._libraries()], os.environ["OMP_NUM_THREADS"])
print([openmp._threads(path) for path in openmp._libraries()], os.environ.get("OMP_NUM_THREADS"))
"""

LIBRARY = "import sklearn.cluster"


def printed(code: str, **environ: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={"PATH": "", **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are found in /proc")
@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_library_has_one_thread_meanwhile_and_then_as_many_as_it_was_set_to(where: str) -> None:
    code = CODE.format(**{"outside": "pass", "inside": "pass", where: LIBRARY})
    assert printed(code, OMP_NUM_THREADS="3") == ["[1] 1", "[3] 3"]


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are found in /proc")
def test_a_library_that_was_loaded_meanwhile_then_has_the_threads_it_would_have_had() -> None:
    usual = printed(CODE.format(outside=LIBRARY, inside="pass"))[1]
    assert printed(CODE.format(outside="pass", inside=LIBRARY))[1] == usual


def test_without_a_library_nothing_is_left_behind() -> None:
    assert printed(CODE.format(outside="pass", inside="pass")) == ["[] 1", "[] None"]
