"""denzel's main job, end to end: a trained model becomes a service, answers, calls back, and goes away again.

Usage: python examples/demo.py. It needs no Docker. Everything happens in a temporary folder, and is removed at the end.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.request import Request, urlopen

IRIS = Path(__file__).parent / "iris"
DENZEL = str(Path(sys.executable).parent / "denzel")
NAME = f"iris-demo-{secrets.token_hex(3)}"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="denzel-demo-") as folder, receiver() as (port, callbacks):
        project = Path(folder) / NAME
        step("Train a classifier and make a project of it")
        run(DENZEL, "startproject", NAME, cwd=project.parent)
        run(
            sys.executable, str(IRIS / "train.py"), str(project / "app" / "assets" / "iris_svc.pkl"), cwd=project.parent
        )
        shutil.copy(IRIS / "pipeline.py", project / "app" / "logic")
        shutil.copy(IRIS / "info.txt", project / "app" / "assets")
        shutil.copy(IRIS / "requirements.txt", project)
        api_port, monitor_port = free_ports()
        try:
            step("Launch it: its packages, the four services, the model")
            ports = ["--api-port", str(api_port), "--monitor-port", str(monitor_port)]
            run(DENZEL, "launch", "--backend", "local", *ports, cwd=project)
            predict(f"http://127.0.0.1:{api_port}", f"http://127.0.0.1:{monitor_port}", port, callbacks)
        finally:
            step("Shut it down and remove all of it")
            run(DENZEL, "shutdown", "--purge", "--yes", cwd=project)
    step("Done. Next: docs/tutorial.md does the same by hand, or start your own: denzel startproject NAME")


def predict(api: str, monitor: str, receiver_port: int, callbacks: Queue[Any]) -> None:
    step("Ask for two predictions in one task")
    request = json.loads((IRIS / "request.json").read_text())
    request["callback_uri"] = f"http://127.0.0.1:{receiver_port}/stash"
    accepted = call(f"{api}/predict", request)
    show("accepted ", accepted)
    task_id = accepted["data"]["task_id"]
    callback = callbacks.get(timeout=30)
    show("callback ", callback)
    # The sender notes a delivery when it has the receiver's answer: a moment after the callback is here.
    wait_for(lambda: call(f"{api}/status/{task_id}")["callback"]["state"] == "DELIVERED", what="the delivery on record")
    status = call(f"{api}/status/{task_id}")
    show("status   ", status)
    expect(
        (status["status"], status["result"]) == ("SUCCESS", callback),
        "the status and the callback tell the same result",
    )
    expect(set(callback) == set(request["data"]), "every example has its prediction")

    step("Look at the dashboard")
    count = wait_for(lambda: succeeded(monitor), what="the dashboard to count the task")
    print(f"    {monitor} shows {count} task done")


def succeeded(monitor: str) -> int:
    """How many tasks the dashboard has seen succeed."""
    with urlopen(f"{monitor}/metrics", timeout=10) as answer:
        found = re.findall(r'flower_events_total\{.*type="task-succeeded".*\} ([\d.]+)', answer.read().decode())
    return int(sum(map(float, found)))


def call(address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(address, data=data), timeout=30) as answer:
        return json.load(answer)


def run(*command: str, cwd: Path) -> None:
    """Run a command, showing what it prints; end the demo when it fails."""
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"    {line}", end="", flush=True)
    if process.returncode != 0:
        sys.exit(f"The demo ended: {' '.join(command)} exited with {process.returncode}.")


@contextmanager
def receiver() -> Iterator[tuple[int, Queue[Any]]]:
    """A small receiver of callbacks: its port, and the bodies that arrive."""
    arrived: Queue[Any] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], arrived
        server.shutdown()


def wait_for(condition: Callable[[], int], *, what: str) -> int:
    deadline = time.monotonic() + 30
    while not (seen := condition()):
        expect(time.monotonic() < deadline, what)
        time.sleep(0.2)
    return seen


def expect(true: bool, what: str) -> None:
    if not true:
        sys.exit(f"The demo ended: it should have been so that {what}.")


def free_ports() -> tuple[int, int]:
    """Two ports that nobody has."""
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def step(text: str) -> None:
    print(f"\n{text}", flush=True)


def show(name: str, value: Any) -> None:
    print(f"    {name} {json.dumps(value)}", flush=True)


if __name__ == "__main__":
    main()
