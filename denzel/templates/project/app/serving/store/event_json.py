"""How events for the dashboard are written and read: JSON as Celery's, by a quicker library."""

from __future__ import annotations

from typing import Any

import orjson
from kombu import serialization
from kombu.utils.json import dumps, loads

from app.serving.store.messages import dump

#: What Kombu calls it.
NAME = "event"

_TYPE = ("application/json", "utf-8")


def register_writer() -> None:
    """Let `serializer=NAME` be known to Kombu."""
    serialization.register(NAME, dump, None, *_TYPE)


def register_reader() -> None:
    """Read all JSON messages of this process so; they are events, and answers of workers."""
    serialization.register("json", dumps, _load, *_TYPE)


def _load(text: bytes | str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # It has narrower limits than the standard library: lone surrogates, NaN.
        return loads(text)
