"""Projects with the lab pipeline, however their services run: their api, and the orders that the pipeline follows."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

ALL_UP = {"denzel": "UP", "monitor": "UP", "api": "UP", "redis": "UP"}
ALL_DOWN = dict.fromkeys(ALL_UP, "DOWN")


class LabProject:
    """The folder of a project and the address of its api."""

    root: Path
    api: str

    @property
    def pipeline(self) -> Path:
        return self.root / "app" / "logic" / "pipeline.py"

    def write_pipeline(self) -> None:
        shutil.copy(Path(__file__).with_name("lab_pipeline.py"), self.pipeline)

    def order(self, **orders: Any) -> None:
        """Set the behaviour of load_model from the next start on."""
        named = {name.replace("_", " "): value for name, value in orders.items()}
        (self.root / "app" / "assets" / "orders.json").write_text(json.dumps(named))

    @contextmanager
    def held(self) -> Iterator[dict[str, str]]:
        """An order with which tasks run until the end of the `with`."""
        release = f"app/assets/release-{secrets.token_hex(4)}"
        try:
            yield {"until": release}
        finally:
            (self.root / release).touch()

    def get(self, path: str) -> requests.Response:
        return requests.get(self.api + path, timeout=60)

    def post(self, body: Any, **headers: str) -> requests.Response:
        """Request a prediction; headers are named as keywords: idempotency_key."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.post(f"{self.api}/predict", data=json.dumps(body), headers=named, timeout=120)

    def submit(self, body: Any) -> str:
        """The id of a task, accepted by the api."""
        answer = self.post(body, prefer="respond-async")
        assert answer.status_code == 200, answer.text
        task_id: str = answer.json()["data"]["task_id"]
        return task_id

    def task(self, task_id: str) -> dict[str, Any]:
        answer = self.get(f"/status/{task_id}")
        assert answer.status_code == 200, answer.text
        record: dict[str, Any] = answer.json()
        return record

    def cancel(self, task_id: str) -> requests.Response:
        return requests.delete(f"{self.api}/status/{task_id}", timeout=30)
