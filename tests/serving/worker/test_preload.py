"""MODEL_SHARING=fork for real: one model, loaded before the processes that predict are forked."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import Redis
from support.deployment import Deployment
from support.waiting import until

from app.serving.heartbeat import Heartbeat
from app.serving.store.workers import WorkerRegistry, how_load_model_ended
from app.serving.worker.model.predictor import Predictor
from app.serving.worker.preload import preload_model, uses_cuda

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


NATIVE_THREAD = """
import ctypes

_load_model = load_model

def load_model():
    libc, thread = ctypes.CDLL(None), ctypes.c_ulong()
    libc.pthread_create(ctypes.byref(thread), None, ctypes.cast(libc.pause, ctypes.c_void_p), None)
    return _load_model()
"""

PYTHON_THREAD = """
import threading

_load_model = load_model

def load_model():
    threading.Thread(target=threading.Event().wait, daemon=True).start()
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
    assert forking.loads() == [forking.main_process()]
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
    until(forking.sender, what="the sender to run")
    assert forking.healthy("denzel")
    os.kill(forking.running["denzel"].pid, signal.SIGTERM)
    assert forking.exit_code("denzel", within=10) == 0
    assert forking.worker() == ("", "")
    until(lambda: not forking.processes("denzel"), within=10, what="every process of the worker to be gone")


@pytest.mark.local
def test_a_worker_that_stops_while_it_loads_is_deregistered(forking: Deployment) -> None:
    """Although its process is ended by the signal, and the sender still waits for an answer."""
    forking.order(load_for=300)
    forking.start("redis")
    until(lambda: forking.healthy("redis"), what="Redis")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        forking.records.enqueue(
            "called back", "", callback_uri=f"http://127.0.0.1:{silent.getsockname()[1]}/", queue_limit=1
        )
        forking.records.complete("called back", "SUCCESS", None, ttl=600)
        forking.start("denzel")
        # The callback is on its way, and the service waits for it when it stops.
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            os.kill(forking.running["denzel"].pid, signal.SIGTERM)
            assert forking.exit_code("denzel", within=30) == 0
    assert forking.worker() == ("", "")


@pytest.mark.local
def test_a_model_that_cannot_be_loaded_is_an_error_until_it_can(forking: Deployment) -> None:
    add(forking, FAILS)
    forking.start("redis", "denzel")
    assert forking.until_worker_is("ERROR") == "FileNotFoundError: no model yet"
    (forking.root / "there").touch()
    forking.until_worker_is("UP")
    assert predicting(forking) in forking.processes("denzel")


@pytest.mark.local
def test_a_model_that_ends_the_worker_is_an_error_until_it_loads(forking: Deployment) -> None:
    add(forking, ENDS)
    forking.start("redis", "denzel")
    cause = "load_model ended its process with exit code 3"
    assert forking.until_worker_is("ERROR") == cause
    # The next one says so while it tries again.
    first = until(forking.main_process, what="the next worker")
    assert forking.until_worker_is("ERROR") == cause
    until(lambda: forking.main_process() not in (0, first), what="another try")
    (forking.root / "there").touch()
    assert forking.until_worker_is("UP") == ""
    assert forking.output("denzel").count("the worker ended with exit code 3 while loading the model") >= 2


@pytest.mark.local
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize("code", [NATIVE_THREAD, PYTHON_THREAD])
def test_a_model_that_starts_a_thread_is_refused_with_a_hint(forking: Deployment, code: str) -> None:
    """In a forked process it is missing: the first prediction that needs it would hang for ever."""
    add(forking, code)
    forking.start("redis", "denzel")
    assert forking.until_worker_is("ERROR") == (
        "load_model has started a thread, which no forked process would have: predictions would hang."
        " Set MODEL_SHARING=process in .env, then: denzel restart"
    )
    assert len(forking.loads()) == 1
    os.kill(forking.running["denzel"].pid, signal.SIGTERM)
    assert forking.exit_code("denzel", within=10) == 0
    forking.environ["MODEL_SHARING"] = "process"
    forking.start("denzel")
    assert forking.until_worker_is("UP") == ""


class TMonitor(threading.Thread):
    """As tqdm starts it for its first progress bar."""

    __module__ = "tqdm._monitor"


def test_the_thread_of_a_progress_bar_is_none_that_predictions_need(broker: Redis) -> None:
    is_over = threading.Event()

    def load_model() -> str:
        TMonitor(target=is_over.wait, daemon=True).start()
        return "model"

    loaded = Predictor(lambda: SimpleNamespace(load_model=load_model, predict_batch=None))
    registry = WorkerRegistry(broker)
    preload_model(loaded, registry, "worker@iris", Heartbeat(None), {})
    assert loaded.loaded
    is_over.set()


@pytest.mark.parametrize(
    ("environ", "report"),
    [({}, ("LOADING", "")), ({"LOAD_ENDED": "-9"}, ("ERROR", how_load_model_ended(-9)))],
)
def test_the_state_of_a_load_is_reported_and_the_supervisor_expects_no_beats_meanwhile(
    environ: dict[str, str], report: tuple[str, str], broker: Redis
) -> None:
    source, output = os.pipe()
    registry = WorkerRegistry(broker)
    seen = []

    def load_model() -> str:
        seen.append([(one.state.value, one.cause) for one in registry.read()])
        seen.append(os.read(source, 10))
        return "model"

    preload_model(
        Predictor(lambda: SimpleNamespace(load_model=load_model)), registry, "worker@iris", Heartbeat(output), environ
    )
    assert seen == [[report], b"L"]
    assert os.read(source, 10) == b"R"
    os.close(source)
    os.close(output)


def test_a_load_goes_on_without_redis(away: Redis) -> None:
    loaded = Predictor(lambda: SimpleNamespace(load_model=lambda: "model"))
    preload_model(loaded, WorkerRegistry(away), "worker@iris", Heartbeat(None), {})
    assert loaded.loaded


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
