"""MODEL_SHARING=fork for real: one model, loaded before the processes that predict are forked."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest
from support.deployment import Deployment
from support.waiting import until

from app.serving.store import keys
from app.serving.worker.preload import uses_cuda

MODEL_MB = 200

#: Around the pipeline of the tests: a model of many megabytes, and whatever a test puts into its place.
BIG = f"""
import numpy as np

_load_model = load_model

def load_model():
    global ballast
    ballast = np.ones({MODEL_MB} * 1024 * 128)
    return _load_model()
"""

#: Warms up in load_model as people do, on more threads than one.
WARM = """
import os
import numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier

def verify_input(json_data):
    return json_data

def load_model():
    rows = np.random.default_rng(1).random((20000, 8))
    models = (
        HistGradientBoostingClassifier(max_iter=3).fit(rows, rows[:, 0] > 0.5),
        KMeans(3, n_init=1, random_state=1).fit(rows),
    )
    for model in models:
        model.predict(rows)
    return models, rows

def process(model, json_data):
    return json_data

def predict(model, data):
    models, rows = model
    return {"rows": [len(one.predict(rows)) for one in models], "threads": len(os.listdir("/proc/self/task"))}
"""

TORCH = """
class Tensor:
    pass

class cuda:
    @staticmethod
    def is_initialized():
        return True
"""

FAILS = """
from pathlib import Path

_load_model = load_model

def load_model():
    if not Path("there").exists():
        raise FileNotFoundError("no model yet")
    return _load_model()
"""


ENDS = """
_load_model = load_model

def load_model():
    time.sleep(2)
    if not Path("there").exists():
        os._exit(3)
    return _load_model()
"""


def pipeline_file(deployment: Deployment) -> Path:
    return deployment.root / "app" / "logic" / "pipeline.py"


def add(deployment: Deployment, code: str) -> None:
    path = pipeline_file(deployment)
    path.write_text(path.read_text() + code)


def memory(pid: int) -> tuple[float, float]:
    """MB of a process in memory, and of these the MB that are its own alone."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    resident, *private = (
        sum(int(number) for number in re.findall(rf"^{name}: +(\d+)", text, re.M)) for name in ("Rss", r"Private_\w+")
    )
    return resident / 1024, private[0] / 1024


def predicting(deployment: Deployment) -> int:
    """A process that has just predicted."""
    pid = deployment.ended(deployment.enqueue()).result["pid"]
    assert isinstance(pid, int)
    return pid


@pytest.fixture
def forking(single: Deployment) -> Deployment:
    single.environ["MODEL_SHARING"] = "fork"
    return single


@pytest.mark.local
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")
def test_one_model_is_in_memory_also_for_processes_that_come_later(forking: Deployment) -> None:
    add(forking, BIG)
    forking.launch("denzel")
    assert forking.loads() == [forking.running["denzel"].pid]
    first = predicting(forking)
    killed = forking.enqueue(die=True)
    assert forking.ended(killed, within=60).status == "FAILURE"
    until(lambda: forking.worker()[0] == "UP", what="the worker to be up")
    later = {predicting(forking) for _ in range(6)}
    for pid in {first, *later} & set(forking.processes("denzel")):
        resident, own = memory(pid)
        assert resident > MODEL_MB > 4 * own
    assert len(forking.loads()) == 1


@pytest.mark.local
def test_the_worker_is_loading_while_the_main_process_loads_and_a_stop_is_prompt(forking: Deployment) -> None:
    forking.order(load_for=300)
    forking.start("redis", "denzel")
    forking.until_worker_is("LOADING")
    until(forking.sidecar, what="the sidecar to run")
    assert forking.healthy("denzel")
    os.kill(forking.running["denzel"].pid, signal.SIGTERM)
    assert forking.exit_code("denzel", within=10) == 0
    assert forking.worker() == ("", "")
    until(lambda: not forking.processes("denzel"), within=10, what="every process of the worker to be gone")


@pytest.mark.local
def test_a_worker_that_stops_while_it_loads_is_deregistered(forking: Deployment) -> None:
    """After a restart, what is left would be taken for a death."""
    forking.order(load_for=300)
    forking.start("redis")
    until(lambda: forking.healthy("redis"), what="Redis")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        forking.records.enqueue(
            "called back", "", callback_uri=f"http://127.0.0.1:{silent.getsockname()[1]}/", queue_limit=1
        )
        forking.records.complete("called back", "SUCCESS", None, ttl=600)
        forking.start("denzel")
        # The callback is on its way, and the worker waits for it when it stops: longer than between two heartbeats.
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            os.kill(forking.running["denzel"].pid, signal.SIGTERM)
            assert forking.exit_code("denzel", within=30) == 0
    assert forking.worker() == ("", "")
    assert not forking.redis.exists(keys.loads("worker@iris"))


@pytest.mark.local
def test_a_model_that_cannot_be_loaded_is_an_error_until_it_can(forking: Deployment) -> None:
    add(forking, FAILS)
    forking.start("redis", "denzel")
    assert forking.until_worker_is("ERROR") == "FileNotFoundError: no model yet"
    (forking.root / "there").touch()
    forking.until_worker_is("UP")
    assert predicting(forking) in forking.processes("denzel")


@pytest.mark.local
def test_a_model_that_ends_the_worker_is_an_error_after_restarts_until_it_loads(forking: Deployment) -> None:
    add(forking, ENDS)
    forking.start("redis", "denzel")
    assert forking.exit_code("denzel", within=60) == 3
    for _ in range(2):
        forking.start("denzel")  # as Docker and supervisord do
        assert forking.until_worker_is("ERROR") == "a process died while loading the model"
        assert forking.exit_code("denzel", within=60) == 3
    (forking.root / "there").touch()
    forking.start("denzel")
    forking.until_worker_is("ERROR")
    assert forking.until_worker_is("UP") == ""


@pytest.mark.local
@pytest.mark.skipif(sys.platform != "linux", reason="the trap is that of GNU's OpenMP")
def test_openmp_that_was_used_while_loading_does_not_hang_what_is_forked(forking: Deployment) -> None:
    pipeline_file(forking).write_text(WARM)
    forking.launch("denzel")
    result = forking.ended(forking.enqueue(), within=20).result
    assert result["rows"] == [20000, 20000]
    # Its own threads again, as many as the machine has cores; Python's may come on top.
    assert result["threads"] >= len(os.sched_getaffinity(0))


@pytest.mark.local
def test_cuda_that_was_initialised_while_loading_is_warned_of(forking: Deployment) -> None:
    (forking.root / "torch.py").write_text(TORCH)
    add(forking, "\nimport torch\n")
    forking.launch("denzel")
    assert "load_model has initialised CUDA, which no forked process can use" in forking.output("denzel")


def test_an_open_device_of_the_driver_is_cuda(tmp_path: Path) -> None:
    assert not uses_cuda(tmp_path)
    (tmp_path / "7").symlink_to("/dev/nvidia0")
    assert uses_cuda(tmp_path)


def test_without_proc_there_is_no_cuda(tmp_path: Path) -> None:
    assert not uses_cuda(tmp_path / "nowhere")
