"""event_json.py: events in JSON that any Celery reads, and events in any JSON."""

from __future__ import annotations

import json

import pytest
from kombu import serialization

from app.serving.store import event_json


@pytest.mark.parametrize("value", ["text", "\ud800", 2**70, 0.1, None, {"a": ["b"]}])
def test_an_event_is_plain_json(value: object) -> None:
    event_json.register_writer()
    content_type, encoding, body = serialization.dumps([{"value": value}], serializer=event_json.NAME)
    assert (content_type, encoding) == ("application/json", "utf-8")
    assert json.loads(body) == [{"value": value}]
    assert serialization.loads(body, content_type, encoding, accept={"application/json"}) == [{"value": value}]


@pytest.mark.parametrize("text", ['[{"value": "\\ud800"}]', '[{"value": NaN}]'])
def test_events_that_orjson_refuses_are_read_all_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = serialization.registry
    monkeypatch.setattr(registry, "_decoders", dict(registry._decoders))
    monkeypatch.setattr(registry, "_encoders", dict(registry._encoders))
    event_json.register_reader()
    (read,) = serialization.loads(text, "application/json", "utf-8", accept={"application/json"})
    assert str(read["value"]).encode("utf-8", "backslashreplace") in (b"\\ud800", b"nan")
