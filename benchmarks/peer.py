"""Peers, the servers that denzel is compared with: each runs in an environment of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
from machine import memory
from programs import Failed, environment, free_ports, run
from system import ANSWER, FLOWERS, IRIS, REQUEST, REQUEST_WITH_CALLBACK, Request, System

HERE = Path(__file__).parent


class Peer(System):
    """Another server: peers/NAME/serve.py in an environment from peers/NAME/requirements.txt."""

    def __init__(
        self,
        folder: str,
        title: str,
        work: Path,
        *,
        sync: Request,
        accept: Request | None = None,
        processes: int = 1,
    ) -> None:
        self.name = folder if processes == 1 else f"{folder}-{processes}"
        self.title = title
        self.sync = sync
        self.accept = accept
        self._folder = HERE / "peers" / folder
        self._requirements = (self._folder / "requirements.txt").read_text()
        self._processes = processes
        self._work = work / self.name
        self._process: subprocess.Popen[bytes] | None = None
        first = [line.split("==") for line in self._requirements.splitlines() if line.startswith(f"{folder}==")]
        self.versions = first[0][1] if first else ""

    def prepare(self) -> None:
        self._python = environment(self._folder.name, self._requirements)
        (self._work / "app" / "assets").mkdir(parents=True, exist_ok=True)
        run(str(self._python), str(IRIS / "train.py"), "app/assets/iris_svc.pkl", cwd=self._work)

    def start(self, *, large: bool = False, shared: bool = False) -> None:
        self.port, second = free_ports(2)
        folders = [self._folder, HERE / "peers", IRIS]
        variables = {
            **os.environ,
            "PATH": f"{self._python.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            "MODEL_MB": "512" if large else "0",
            "SECOND_PORT": str(second),
            # No telemetry.
            "BENTOML_DO_NOT_TRACK": "true",
            "DO_NOT_TRACK": "1",
            "BENTOML_HOME": str(self._work / "bentoml"),
        }
        processes = 2 if large else self._processes
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(self._python), str(self._folder / "serve.py"), str(self.port), str(processes)],
                cwd=self._work,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check_started(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            said = " ".join(self._log.read_text(errors="replace").splitlines()[-1:])
            raise Failed(f"exited with {self._process.returncode}: {said[:300]}")

    def stop(self) -> None:
        if self._process is None:
            return
        family = self._family()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process = None

    def remove(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def memory(self) -> dict[str, float]:
        return {"server": memory(process.pid for process in self._family())}

    def _family(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self._process.pid if self._process else 0)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @property
    def _log(self) -> Path:
        return self._work / "output.log"


def peers(work: Path) -> list[Peer]:
    """All peers."""
    sync = Request(path="/predict", body=REQUEST, answer=ANSWER)
    accept = Request(path="/accept", body=REQUEST_WITH_CALLBACK, callback=ANSWER)
    rows = [list(flower.values()) for flower in FLOWERS.values()]
    tensor = {"name": "rows", "shape": [2, 4], "datatype": "FP64", "data": rows}
    task = Request(
        path="/accept/submit", body={"request": REQUEST_WITH_CALLBACK}, callback=ANSWER, statuses=(200, 201, 202)
    )
    return [
        Peer("falcon", "Falcon, gunicorn gthread, 1 process", work, sync=sync, accept=accept),
        Peer("falcon", "Falcon, gunicorn gthread, 2 processes", work, sync=sync, accept=accept, processes=2),
        Peer("fastapi", "FastAPI, uvicorn, 1 process", work, sync=sync, accept=accept),
        Peer("fastapi", "FastAPI, uvicorn, 2 processes", work, sync=sync, accept=accept, processes=2),
        Peer("litserve", "LitServe, batches of 32", work, sync=sync),
        Peer(
            "mosec",
            "mosec, batches of 32",
            work,
            sync=Request(path="/inference", body=REQUEST, answer=ANSWER),
        ),
        Peer(
            "bentoml",
            "BentoML, batching; tasks",
            work,
            sync=Request(path="/predict", body={"inputs": [REQUEST]}, answer=[ANSWER]),
            accept=task,
        ),
        Peer(
            "mlserver",
            "MLServer, 1 worker process",
            work,
            sync=Request(
                path="/v2/models/iris/infer", body={"inputs": [tensor]}, answer='"Iris-setosa","Iris-virginica"'
            ),
        ),
    ]
