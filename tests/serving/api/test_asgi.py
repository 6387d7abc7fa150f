"""asgi.py: wired from the environment, and serving even with a pipeline that cannot be imported."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from redis import Redis
from support.asgi_client import LOOP, Client

from app.serving.settings import SettingError
from app.serving.store import keys

PROJECT = Path(importlib.import_module("app").__file__ or "").parent.parent


@pytest.fixture
def serve(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[ModuleType | None], Client]]:
    """Imports asgi.py in the project folder, with this module as the pipeline (None: one that cannot be imported)."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setenv("REDIS_URL", redis_url)

    def import_asgi(pipeline: ModuleType | None) -> Client:
        monkeypatch.setitem(sys.modules, "app.logic.pipeline", pipeline)  # type: ignore[arg-type]
        monkeypatch.delitem(sys.modules, "app.serving.api.asgi", raising=False)
        return Client(importlib.import_module("app.serving.api.asgi").app)

    yield import_asgi
    # In a deployment the listener lives as long as its process; here it must leave the next test alone.
    LOOP.cancel_all()
    sys.modules.pop("app.serving.api.asgi", None)


def pipeline_with(**functions: Any) -> ModuleType:
    """A pipeline that keeps the contract, with these functions for its own."""
    module = ModuleType("app.logic.pipeline")
    module.__dict__.update(
        verify_input=lambda json_data: json_data,
        load_model=lambda: None,
        process=lambda model, json_data: json_data,
        predict=lambda model, data: {},
    )
    vars(module).update(functions)
    return module


def test_a_task_is_accepted_by_the_users_verify_input(serve: Callable[..., Client], redis: Redis) -> None:
    client = serve(pipeline_with(verify_input=lambda json_data: {"verified": json_data}))
    answer = client.simulate_post("/predict", json={"x": 1})
    assert answer.status_code == 200
    assert redis.hget(keys.task(answer.json["data"]["task_id"]), "status") == "PENDING"


def test_the_information_is_the_projects_file(serve: Callable[..., Client]) -> None:
    client = serve(pipeline_with(verify_input=lambda json_data: json_data))
    assert client.simulate_get("/info").text == (PROJECT / "app/assets/info.txt").read_text()


def test_the_model_is_not_loaded_by_the_api(serve: Callable[..., Client]) -> None:
    def load_model() -> Any:
        raise AssertionError("the api loaded the model")

    client = serve(pipeline_with(verify_input=lambda json_data: json_data, load_model=load_model))
    assert client.simulate_post("/predict", json={}).status_code == 200


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        (None, "pipeline.py cannot be imported: ModuleNotFoundError: import of app.logic.pipeline halted"),
        (
            pipeline_with(predict=lambda data: {}, verify_input=None),
            (
                "pipeline.py cannot be used: verify_input is not a function but of type NoneType: it should be"
                " verify_input(json_data); predict takes (data), and is called as predict(model, data)"
            ),
        ),
    ],
    ids=["import", "contract"],
)
def test_a_broken_pipeline_fails_predictions_alone(
    serve: Callable[..., Client], redis: Redis, pipeline: ModuleType | None, reason: str
) -> None:
    client = serve(pipeline)
    assert client.simulate_get("/info").status_code == 200
    assert client.simulate_get("/health/live").status_code == 200
    answer = client.simulate_post("/predict", json={})
    assert answer.status_code == 500
    assert answer.json["title"] == "Pipeline error"
    assert answer.json["description"].startswith(reason)
    ready = client.simulate_get("/health/ready")
    assert (ready.status_code, ready.json["pipeline"]) == (503, answer.json["description"])
    assert redis.keys() == []


def test_the_cause_of_a_broken_pipeline_is_in_the_log(
    serve: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    serve(None)
    assert "app.logic.pipeline cannot be imported" in caplog.text
    assert "Traceback" in caplog.text


def test_modules_for_prediction_and_callbacks_are_not_imported() -> None:
    """Without them, the api starts faster and takes less memory."""
    others = ("celery", "kombu", "billiard", "requests", "urllib3", "app.tasks", "app.logic.pipeline")
    imports = "import sys, app.serving.api.app, app.serving.api.http.worker"
    code = f"{imports}; print([name for name in {others} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_needs_no_redis(serve: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    client = serve(pipeline_with(verify_input=lambda json_data: json_data))
    assert client.simulate_get("/info").status_code == 200
    assert client.simulate_post("/predict", json={}).status_code == 503


def test_a_bad_setting_stops_the_start_by_name(serve: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_LIMIT", "many")
    with pytest.raises(SettingError, match="QUEUE_LIMIT is 'many'"):
        serve(pipeline_with(verify_input=lambda json_data: json_data))
