"""Bare Falcon under gunicorn's threads: python serve.py PORT PROCESSES."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from queue import SimpleQueue
from typing import Any

import falcon
import iris
import urllib3

#: Threads that answer, and threads that predict and call back.
THREADS = 64
SENDERS = 32


class Predict:
    """Answers with the prediction."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.media = iris.predict(self.model, req.get_media())


class Accept:
    """Answers at once, and posts the prediction later, from memory."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.accepted: SimpleQueue[Any] = SimpleQueue()
        self.pool = urllib3.PoolManager(maxsize=SENDERS)
        for _ in range(SENDERS):
            threading.Thread(target=self.send, daemon=True).start()

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        self.accepted.put(req.get_media())
        resp.media = {"task_id": str(uuid.uuid4())}

    def send(self) -> None:
        while True:
            request = self.accepted.get()
            self.pool.request("POST", request["callback_uri"], json=iris.predict(self.model, request))


def create_app() -> falcon.App:
    model = iris.load_model()
    app = falcon.App()
    app.add_route("/predict", Predict(model))
    app.add_route("/accept", Accept(model))
    return app


if __name__ == "__main__":
    port, processes = sys.argv[1:]
    options = ["--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--workers", processes]
    os.execvp("gunicorn", ["gunicorn", *options, "--threads", str(THREADS), "serve:create_app()"])
