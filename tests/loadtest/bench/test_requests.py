"""Pre-rendered requests of a bench."""

from __future__ import annotations

import json
from typing import Any

from denzel.loadtest.bench.requests import RequestTemplates
from denzel.loadtest.http.http1 import MessageParser, header


def templates(*requests: dict[str, object], **options: Any) -> RequestTemplates:
    defaults = {"server": ("127.0.0.1", 8000), "address": "http://here:9000/abc/000000000", "always": True}
    return RequestTemplates(requests, **{"key": "", "prefer": "", **defaults, **options})


def parts(request: bytes) -> tuple[bytes, dict[str, object]]:
    [(head, body)] = MessageParser(body_limit=1000).feed(request)
    return head, json.loads(body)


def test_each_request_has_its_number_in_its_callback() -> None:
    made = templates({"data": "000000000", "callback_uri": "http://elsewhere/"}, {"data": "ü"})
    assert parts(made.predict(0))[1] == {"data": "000000000", "callback_uri": "http://here:9000/abc/000000000"}
    assert parts(made.predict(1))[1] == {"data": "ü", "callback_uri": "http://here:9000/abc/000000001"}
    assert parts(made.predict(123456))[1]["callback_uri"] == "http://here:9000/abc/000123456"


def test_a_request_without_a_callback_is_given_none_where_its_response_is_the_result() -> None:
    made = templates({"data": 1}, {"data": 2, "callback_uri": "http://elsewhere/"}, always=False)
    assert parts(made.predict(2))[1] == {"data": 1}
    assert parts(made.predict(3))[1] == {"data": 2, "callback_uri": "http://here:9000/abc/000000003"}
    assert (made.has_callback(0), made.has_callback(1)) == (False, True)


def test_preference_and_api_key_are_headers() -> None:
    head, _ = parts(templates({}, prefer="wait=60", key="secret").predict(0))
    assert (header(head, b"prefer"), header(head, b"authorization")) == (b"wait=60", b"Bearer secret")
    head, _ = parts(templates({}).predict(0))
    assert (header(head, b"prefer"), header(head, b"authorization")) == (b"", b"")


def test_a_request_that_may_be_sent_again_has_an_idempotency_key_and_the_same_body() -> None:
    first, again = (
        templates({"data": 1}, prefer=prefer, idempotency_key="k1").predict(0) for prefer in ("wait=60", "")
    )
    assert parts(first)[1] == parts(again)[1]
    assert [header(parts(sent)[0], b"idempotency-key") for sent in (first, again)] == [b"k1", b"k1"]
    assert header(parts(templates({}).predict(0))[0], b"idempotency-key") == b""
