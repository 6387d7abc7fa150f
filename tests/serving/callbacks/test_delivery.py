"""delivery.py: the body of a callback, and the results of attempts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.callbacks import DAY, LOOP, Pool, Scripted, callback
from support.ports import find_free_port

from app.serving.callbacks.delivery import Delivery, body
from app.serving.callbacks.exchange import Response
from app.serving.store.outbox import AttemptResult


class Ending:
    """Connections over which every POST ends in this way."""

    def __init__(self, end: Response | Exception) -> None:
        self._end = end

    async def post(self, *_: Any) -> Response:
        if isinstance(self._end, Exception):
            raise self._end
        return self._end


def send(pool: Any, *, retry_for: float = DAY, **values: Any) -> AttemptResult:
    return LOOP.run(Delivery(pool, key=b"", retry_for=retry_for).send(callback(**values)))


def test_the_body_is_what_predict_returned() -> None:
    assert body(callback(result='{"a123": "Iris-setosa"}')) == b'{"a123": "Iris-setosa"}'


@pytest.mark.parametrize("status", ["FAILURE", "REVOKED"])
def test_the_body_of_a_failure_names_the_task(status: str) -> None:
    posted = body(callback(status=status, result='{"args": ["na\\u00efve"]}'))
    assert json.loads(posted) == {"status": status, "result": {"args": ["naïve"]}, "task_id": "the-id"}


def test_a_retry_after_with_a_date_is_honoured() -> None:
    result = send(Ending(Response(429, "Wed, 25 Nov 2099 08:00:00 GMT")), retry_for=1e10)
    assert result.retry_in is not None
    assert result.retry_in > 1e8
    assert not result.endpoint_down


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:{port}/", "http://does-not-exist.invalid/", f"http://{'a' * 64}.example/"]
)
def test_an_endpoint_that_cannot_be_reached_is_tried_again(uri: str) -> None:
    """The last one cannot even be looked up; a record of an older version may hold it."""
    result = send(Pool(), uri=uri.format(port=find_free_port()))
    assert result.retry_in
    assert result.error
    assert result.endpoint_down


def test_a_callback_that_the_policy_denies_fails_at_once(scripted: Scripted) -> None:
    receiver = scripted()
    pool = Pool(loopback=False, resolve=lambda host: ["127.0.0.1"])
    assert send(pool, uri=receiver.uri().replace("127.0.0.1", "user:secret@trap.example")) == AttemptResult(
        error="callbacks are not sent to trap.example, which is 127.0.0.1, a loopback address (CALLBACK_ALLOW opens it)"
    )
    assert receiver.received == []


def test_an_error_of_denzels_own_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    result = send(Ending(ZeroDivisionError("oh")))
    assert (result.error, result.endpoint_down) == ("denzel's own error: oh", False)
    assert result.retry_in is not None
    assert "callback of task the-id could not be sent" in caplog.text
