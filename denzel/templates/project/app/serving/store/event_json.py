"""JSON serializer of events for the dashboard: Celery's format, by orjson."""

from __future__ import annotations

from typing import Any

import orjson
from kombu import serialization
from kombu.utils.json import dumps, loads

from app.serving.store.messages import dump

#: The name of the serializer for Kombu.
NAME = "event"

_TYPE = ("application/json", "utf-8")


def register_writer() -> None:
    """Register the serializer NAME with Kombu."""
    serialization.register(NAME, dump, None, *_TYPE)


def register_reader() -> None:
    """Read all JSON messages of this process by orjson: events, and answers of workers."""
    serialization.register("json", dumps, _load, *_TYPE)


def _load(text: bytes | str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # It has narrower limits than the standard library: lone surrogates, NaN.
        return loads(text)
