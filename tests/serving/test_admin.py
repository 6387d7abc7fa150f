"""admin.py: admin commands, as `denzel` runs them: one JSON document, or one line and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from support.paths import PROJECT

from app.serving import admin
from app.serving.admin import BAD_USAGE, COMMANDS, FAILED, BadUsage, Deployment, main, run
from app.serving.settings import Settings
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.messages import task_message
from app.serving.store.outbox import AttemptResult, Outbox
from app.serving.store.tasks import TaskStore


@pytest.fixture
def deployment(broker: Redis, read_settings: Callable[..., Settings]) -> Deployment:
    return Deployment(broker, read_settings())


@pytest.fixture
def _undelivered(broker: Redis, deployment: Deployment) -> None:
    """One callback that waits, and one that was given up."""
    records = TaskStore(broker)
    results = {
        "waiting": AttemptResult(error="Connection refused", retry_in=3600, endpoint_down=True),
        "failed": AttemptResult(status=410, error="answered 410"),
    }
    for task_id, result in results.items():
        records.enqueue(task_id, "message", callback_uri=f"http://{task_id}.example/", queue_limit=10)
        records.complete(task_id, "SUCCESS", {}, ttl=60)
        taken, _ = deployment.outbox.take(free=1, per_endpoint=1)
        deployment.outbox.settle([(taken[0], result)])


@pytest.mark.usefixtures("_undelivered")
def test_callbacks_that_were_not_delivered_are_listed(deployment: Deployment) -> None:
    waiting, failed = run(["callbacks"], deployment)
    assert isinstance(waiting.pop("next_try"), float)
    assert waiting == {
        "task_id": "waiting",
        "uri": "http://waiting.example/",
        "state": "PENDING",
        "attempts": 1,
        "last_status": None,
        "last_error": "Connection refused",
    }
    assert failed == {
        "task_id": "failed",
        "uri": "http://failed.example/",
        "state": "FAILED",
        "attempts": 1,
        "last_status": 410,
        "last_error": "answered 410",
        "next_try": None,
    }


def test_a_password_in_the_uri_is_not_shown(broker: Redis, deployment: Deployment) -> None:
    records = TaskStore(broker)
    records.enqueue("the-id", "message", callback_uri="https://user:secret@a.example:90/b?c#d", queue_limit=10)
    records.complete("the-id", "SUCCESS", {}, ttl=60)
    assert [callback["uri"] for callback in run(["callbacks"], deployment)] == ["https://a.example:90/b?c#d"]


@pytest.mark.usefixtures("_undelivered")
def test_callbacks_are_sent_again_by_the_id_of_their_task(deployment: Deployment) -> None:
    assert run(["resend", "waiting", "nonsense"], deployment) == {"resent": ["waiting"], "unknown": ["nonsense"]}
    assert [callback.task_id for callback in due(deployment.outbox)] == ["waiting"]


@pytest.mark.usefixtures("_undelivered")
def test_all_that_failed_are_sent_again(deployment: Deployment) -> None:
    assert run(["resend-failed"], deployment) == {"resent": ["failed"], "unknown": []}
    assert [callback.task_id for callback in due(deployment.outbox)] == ["failed"]


def due(outbox: Outbox) -> list[Any]:
    return outbox.take(free=10, per_endpoint=10)[0]


def test_without_callbacks_the_results_are_empty(deployment: Deployment) -> None:
    assert run(["callbacks"], deployment) == []
    assert run(["resend-failed"], deployment) == {"resent": [], "unknown": []}


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["callbacks", "more"], ["resend"], ["resend-failed", "more"], ["--help"]]
)
def test_an_invalid_command_is_bad_usage(deployment: Deployment, arguments: list[str]) -> None:
    with pytest.raises(BadUsage):
        run(arguments, deployment)


def test_bad_usage_is_one_line_and_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"], {}) == BAD_USAGE == 64
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"the command is one of {', '.join(COMMANDS)}\n"


def test_redis_away_is_one_line_and_code_1(away: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    port = away.connection_pool.connection_kwargs["port"]
    assert main(["callbacks"], {"REDIS_URL": f"redis://127.0.0.1:{port}/0"}) == FAILED == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Redis cannot be asked: ")
    assert shown.err.count("\n") == 1


def test_a_bad_setting_is_one_line_and_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["callbacks"], {"QUEUE_LIMIT": "many"}) == FAILED
    assert capsys.readouterr().err == "QUEUE_LIMIT is 'many'; it must be a number of 1 or more\n"


@pytest.mark.usefixtures("_undelivered")
def test_the_module_prints_one_json_document(redis_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.serving.admin", "callbacks"],
        cwd=PROJECT,
        env={**os.environ, "REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [callback["task_id"] for callback in json.loads(done.stdout)] == ["waiting", "failed"]
    assert done.stderr == ""


def test_tasks_that_have_not_ended_are_listed_from_an_offset_on_and_counted(
    broker: Redis, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = TaskStore(broker)
    for number in range(5):
        records.enqueue(str(number), task_message(str(number), {}), callback_uri=None, queue_limit=10)
    claims = Claims(broker, ClaimLimits(deliveries=3, ttl=60), "host/owner")
    claims.take(limit=2)
    claims.close()
    monkeypatch.setattr(admin, "MAX_LISTED", 3)
    for offset, places in {0: [None, None, 1], 1: [None, 1, 2], 3: [2, 3], 5: [], 9: []}.items():
        page = run(["tasks", str(offset)], deployment)
        assert (page["claimed"], page["waiting"]) == (2, 3)
        assert [(task["task_id"], task["position"]) for task in page["tasks"]] == [
            (str(offset + index), place) for index, place in enumerate(places)
        ]
        assert [task["host"] for task in page["tasks"]] == ["host" if place is None else None for place in places]


@pytest.mark.parametrize("arguments", [[], ["1", "2"], ["one"]])
def test_tasks_needs_an_offset(deployment: Deployment, arguments: list[str]) -> None:
    with pytest.raises(BadUsage, match=r"tasks needs one number, the offset, and got: (nothing|1 2|one)"):
        run(["tasks", *arguments], deployment)
