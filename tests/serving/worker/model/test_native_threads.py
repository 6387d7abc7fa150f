"""native_threads.py: one thread for a while; each test in a process of its own, as a loaded library stays."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.paths import PROJECT

#: Loads a library outside or inside, and prints its number of threads inside and afterwards.
CODE = """
import os
{outside}
from app.serving.worker.model import native_threads
with native_threads.one_thread():
    {inside}
    print([native_threads._threads(path) for path in native_threads._libraries()], os.environ["OMP_NUM_THREADS"])
print([native_threads._threads(path) for path in native_threads._libraries()], os.environ.get("OMP_NUM_THREADS"))
"""

LIBRARY = "import sklearn.cluster"

#: The same without `one_thread`.
USUAL = f"""
import os
{LIBRARY}
from app.serving.worker.model import native_threads
print([native_threads._threads(path) for path in native_threads._libraries()], os.environ.get("OMP_NUM_THREADS"))
"""


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
@pytest.mark.parametrize("environ", [{"OMP_NUM_THREADS": "3"}, {}])
def test_libraries_have_one_thread_meanwhile_and_then_as_many_as_usual(where: str, environ: dict[str, str]) -> None:
    code = CODE.format(**{"outside": "pass", "inside": "pass", where: LIBRARY})
    meanwhile, afterwards = printed(code, **environ)
    (usual,) = printed(USUAL, **environ)
    assert (set(re.findall(r"\d+", meanwhile)), afterwards) == ({"1"}, usual)
    assert "3" in usual or not environ


def test_without_a_library_nothing_is_left_behind() -> None:
    assert printed(CODE.format(outside="pass", inside="pass")) == ["[] 1", "[] None"]
