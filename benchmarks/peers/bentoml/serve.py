"""BentoML with batching, and its tasks: python serve.py PORT PROCESSES."""

from __future__ import annotations

import os
import sys
from typing import Any

import bentoml
import httpx
import iris

PROCESSES = int(os.environ.get("PROCESSES", "1"))


@bentoml.service(workers=PROCESSES, traffic={"timeout": 60, "max_concurrency": 1000})
class Iris:
    """The tutorial's model."""

    def __init__(self) -> None:
        self.model = iris.load_model()
        self.session = httpx.Client(timeout=30)

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def predict(self, inputs: list[dict[str, Any]]) -> list[dict[str, str]]:
        return [{name: str(label) for name, label in one.items()} for one in iris.predict_batch(self.model, inputs)]

    @bentoml.task
    def accept(self, request: dict[str, Any]) -> dict[str, str]:
        """BentoML knows no callbacks, so the task posts its result itself."""
        result = {name: str(label) for name, label in iris.predict(self.model, request).items()}
        self.session.post(request["callback_uri"], json=result)
        return result


if __name__ == "__main__":
    os.environ["PROCESSES"] = sys.argv[2]
    os.execvp("bentoml", ["bentoml", "serve", "serve:Iris", "--host", "127.0.0.1", "--port", sys.argv[1]])
