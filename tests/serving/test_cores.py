"""cores.py: quotas of control groups, and the threads of libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.paths import PROJECT

from app.serving.cores import THREAD_VARIABLES, available_cores, limit_threads

ALL = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1

Cores = Callable[[str, dict[str, str]], int]


@pytest.fixture
def cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cores:
    """The cores of a process with these control groups on a machine with 8, given the files by their paths."""

    def read(membership: str, files: dict[str, str]) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
        monkeypatch.setattr(sys, "platform", "linux")
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return available_cores(tmp_path / "cgroup", tmp_path / "membership")

    return read


V2, V1 = "0::/\n", "12:memory:/\n4:cpu,cpuacct:/\n0::/\n"


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (V2, {"cpu.max": "max 100000\n"}, 8),
        (V2, {"cpu.max": "200000 100000\n"}, 2),
        (V2, {"cpu.max": "150000 100000\n"}, 2),
        (V2, {"cpu.max": "20000 100000\n"}, 1),
        (V2, {"cpu.max": "9900000 100000\n"}, 8),
        (V2, {}, 8),
        ("0::/a.slice/b.service\n", {"a.slice/cpu.max": "100000 50000", "a.slice/b.service/cpu.max": "max 100000"}, 2),
        ("0::/a.slice/b.service\n", {"a.slice/cpu.max": "500000 100000", "a.slice/b.service/cpu.max": "3 1"}, 3),
        ("0::/../b.service\n", {"cpu.max": "300000 100000"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        # In a container without a namespace of its own for control groups, its path is that of the machine.
        ("4:cpu:/docker/f00\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "100000"}, 8),
        ("", {}, 8),
    ],
)
def test_a_quota_limits_the_cores(cores: Cores, membership: str, files: dict[str, str], expected: int) -> None:
    assert cores(membership, files) == expected


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cores(tmp_path, tmp_path / "none") == ALL
    assert 1 <= available_cores() <= ALL


@pytest.mark.skipif(sys.platform != "linux", reason="an affinity is Linux'")
def test_the_affinity_of_this_process_counts() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += "from app.serving.cores import available_cores; print(available_cores())"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True).stdout == b"1\n"


@pytest.mark.parametrize(("processes", "expected"), [(1, "8"), (2, "4"), (3, "2"), (8, "1"), (100, "1")])
def test_processes_share_the_cores(processes: int, expected: str) -> None:
    environ: dict[str, str] = {}
    assert limit_threads(processes, environ, cores=8) == int(expected)
    assert environ == dict.fromkeys(THREAD_VARIABLES, expected)


def test_what_the_user_has_set_stays() -> None:
    environ = {"OMP_NUM_THREADS": "6", "RAYON_NUM_THREADS": "", "MKL_NUM_THREADS": "3"}
    limit_threads(2, environ, cores=8)
    assert (environ["OMP_NUM_THREADS"], environ["RAYON_NUM_THREADS"]) == ("6", "4")
    assert environ["MKL_NUM_THREADS"] == "3"
    assert "OPENBLAS_NUM_THREADS" not in environ  # it follows OMP_NUM_THREADS


def test_native_libraries_take_the_number() -> None:
    """OpenBLAS in NumPy, OpenMP in scikit-learn, and joblib, which all start as many threads as there are cores."""
    code = """
import json, os
from app.serving.cores import limit_threads
limit_threads(2, os.environ, cores=2)
import joblib, numpy, sklearn, threadpoolctl
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
sizes = {pool["internal_api"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
print(json.dumps({**sizes, "sklearn": _openmp_effective_n_threads(), "joblib": joblib.effective_n_jobs(-1)}))
"""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environ, capture_output=True, check=True)
    numbers = json.loads(done.stdout)
    assert numbers.keys() >= {"openblas", "openmp", "joblib"}
    assert set(numbers.values()) == {1}, numbers
