"""problems.py: one shape for every error."""

from __future__ import annotations

import json
from typing import Any

import falcon
import falcon.asgi
import pytest
from redis import RedisError, exceptions
from support.asgi_client import Client

from app.serving.api import problems


class Raises:
    def __init__(self, error: Exception) -> None:
        self._error = error

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        raise self._error


def answer(error: Exception, **headers: str) -> Any:
    app = falcon.asgi.App()
    app.set_error_serializer(problems.serialize)
    app.add_error_handler(RedisError, problems.broker_away)
    app.add_route("/", Raises(error))
    return Client(app).simulate_get("/", headers=headers)


def test_an_error_has_title_description_and_status() -> None:
    answered = answer(falcon.HTTPBadRequest(title="Bad input format", description="no data"))
    assert answered.status_code == 400
    assert answered.json == {"title": "Bad input format", "description": "no data", "status": 400}
    assert answered.headers["content-type"] == "application/json; charset=utf-8"


def test_an_error_without_texts_gets_the_phrase_of_its_status() -> None:
    assert answer(falcon.HTTPNotFound()).json == {"title": "Not Found", "description": "Not Found", "status": 404}
    assert answer(falcon.HTTPMethodNotAllowed(["POST"])).json["title"] == "Method Not Allowed"


def test_details_are_further_members() -> None:
    error = problems.Problem(500, title="Prediction failed", description="no", task_id="the-id")
    assert answer(error).json == {"title": "Prediction failed", "description": "no", "status": 500, "task_id": "the-id"}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/problem+json", "application/problem+json"),
        ("application/json, application/problem+json", "application/problem+json"),
        ("application/json", "application/json; charset=utf-8"),
        ("text/html", "application/json; charset=utf-8"),
        ("*/*", "application/json; charset=utf-8"),
        ("nonsense;;;", "application/json; charset=utf-8"),
    ],
)
def test_the_content_type_is_the_one_a_client_names(accept: str, content_type: str) -> None:
    answered = answer(falcon.HTTPBadRequest(), Accept=accept)
    assert answered.headers["content-type"] == content_type
    assert answered.headers["vary"] == "Accept"
    assert answered.json["status"] == 400


@pytest.mark.parametrize(
    "kind", [RedisError, exceptions.TimeoutError, exceptions.BusyLoadingError, exceptions.ReadOnlyError]
)
def test_a_broker_that_is_away_is_503_with_retry_after(kind: type[RedisError]) -> None:
    answered = answer(kind("Error 111 connecting to redis:6379"))
    assert answered.status_code == 503
    assert answered.headers["retry-after"] == str(problems.RETRY_AFTER)
    assert answered.json["title"] == "Service unavailable"
    assert "6379" not in answered.text


def test_an_unexpected_error_has_the_same_shape_and_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    answered = answer(ZeroDivisionError("a secret"))
    assert answered.status_code == 500
    assert sorted(answered.json) == ["description", "status", "title"]
    assert "secret" not in answered.text


def test_the_text_of_an_error_survives_any_characters() -> None:
    assert json.loads(problems.problem(400, 'a "title"', "naïve ☃\n\ud800"))["description"] == "naïve ☃\n\ud800"
