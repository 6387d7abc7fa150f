"""mosec with batches of 32: python serve.py PORT PROCESSES."""

from __future__ import annotations

import sys
from typing import Any

import iris
import mosec


class Iris(mosec.Worker):
    """The tutorial's model."""

    def __init__(self) -> None:
        self.model = iris.load_model()

    def forward(self, data: list[Any]) -> list[dict[str, str]]:
        answers = iris.predict_batch(self.model, data)
        return [{name: str(label) for name, label in answer.items()} for answer in answers]


if __name__ == "__main__":
    port, processes = sys.argv[1], int(sys.argv[2])
    # The server reads the command line itself.
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port]
    server = mosec.Server()
    server.append_worker(Iris, num=processes, max_batch_size=32, max_wait_time=1)
    server.run()
