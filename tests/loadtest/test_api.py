"""Pre-rendered requests to the api."""

from __future__ import annotations

import json
from typing import Any

from denzel.loadtest.api import Api
from denzel.loadtest.client import HttpClient
from denzel.webhooks.http1 import MessageParser, header


def api(*requests: dict[str, object], **options: Any) -> Api:
    defaults = {"server": ("127.0.0.1", 8000), "address": "http://here:9000/abc/000000000", "key": ""}
    return Api(HttpClient("127.0.0.1", 8000), requests, **{**defaults, **options})


def parts(request: bytes) -> tuple[bytes, dict[str, object]]:
    [(head, body)] = MessageParser(body_limit=1000).feed(request)
    return head, json.loads(body)


def test_each_request_has_its_number_in_its_callback() -> None:
    made = api({"data": "000000000", "callback_uri": "http://elsewhere/"}, {"data": "ü", "callback_uri": ""})
    assert parts(made.render(0))[1] == {"data": "000000000", "callback_uri": "http://here:9000/abc/000000000"}
    assert parts(made.render(1))[1] == {"data": "ü", "callback_uri": "http://here:9000/abc/000000001"}
    assert parts(made.render(123456))[1]["callback_uri"] == "http://here:9000/abc/000123456"


def test_a_request_without_a_callback_is_given_none() -> None:
    made = api({"data": 1}, {"data": 2, "callback_uri": "http://elsewhere/"})
    assert parts(made.render(2))[1] == {"data": 1}
    assert parts(made.render(3))[1] == {"data": 2, "callback_uri": "http://here:9000/abc/000000003"}


def test_preference_and_keys_are_headers() -> None:
    head, _ = parts(api({}, key="secret").render(0, prefer="wait=60", idempotency_key="k1"))
    assert [header(head, name) for name in (b"prefer", b"idempotency-key")] == [b"wait=60", b"k1"]
    assert header(head, b"authorization") == b"Bearer secret"
    head, _ = parts(api({}).render(0))
    assert [header(head, name) for name in (b"prefer", b"idempotency-key", b"authorization")] == [b""] * 3
