"""A task as it travels: Celery's message (protocol 2), in the form Kombu's Redis transport stores it.

Celery's own publisher needs several round trips and cannot be joined with another write. Writing the message here lets
the record of a task and its place on the queue be one step. Source of the format:
https://docs.celeryq.dev/en/stable/internals/protocol.html
"""

from __future__ import annotations

import base64
import json
import os
import socket
from typing import Any, NamedTuple

import orjson

from app.serving.store import keys

TASK_NAME = "app.tasks.invoke_predict"

#: The dashboard shows arguments up to this many characters.
MAX_ARGS_REPR = 1024

_ORIGIN_HOST = socket.gethostname()

# What stands in every message alike. The body comes last: what looks for an id need not read it.
_TEMPLATE = json.dumps(
    {
        "properties": {
            "correlation_id": "TASK ID",
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": keys.QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            # Kombu would invent one; this one lets whoever has the task's id find its message.
            "delivery_tag": "TASK ID",
        },
        "headers": {
            "lang": "py",
            "task": TASK_NAME,
            "id": "TASK ID",
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": "TASK ID",
            "parent_id": None,
            "argsrepr": "ARGUMENTS",
            "kwargsrepr": "{}",
            "origin": "ORIGIN",
            "ignore_result": False,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "body": "BODY",
    }
)
_HEAD, _REST = _TEMPLATE.split('"ARGUMENTS"')
_MIDDLE, _END = _REST.split("BODY")

_AFTER_ARGUMENTS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class QueuedTask(NamedTuple):
    """A task that can travel with others, as its message has it: its id, the body (base64), its arguments as the
    dashboard shows them; and since when it had waited when it was taken, in seconds since 1970.
    """

    task_id: str
    body: str
    shown_arguments: str
    since: float

    @property
    def has_ended(self) -> bool:
        """Whether there is no message any more, and so nothing known of it but its id."""
        return not self.body


def task_message(task_id: str, verified: Any) -> str:
    """The text to push onto the queue, for the task `task_id` over what verify_input returned (JSON values)."""
    arguments = [verified]
    body = base64.b64encode(dump([arguments, {}, _AFTER_ARGUMENTS])).decode()
    shown = json.dumps(_shown(arguments))
    return f"{_HEAD.replace('TASK ID', task_id)}{shown}{_MIDDLE.replace('ORIGIN', _origin())}{body}{_END}"


def parse(message: str, since: float) -> QueuedTask | None:
    """What a message says; None for what needs Celery itself: a time to run at, another client's message."""
    try:
        stored = orjson.loads(message)
        headers, tag = stored["headers"], stored["properties"]["delivery_tag"]
        needs_celery = headers["task"] != TASK_NAME or tag != headers["id"] or headers["eta"] or headers["expires"]
        item = QueuedTask(headers["id"], stored["body"], headers["argsrepr"], since)
    except (ValueError, KeyError, TypeError):
        return None
    return None if needs_celery else item


def decode_input(item: QueuedTask) -> Any:
    """What verify_input returned."""
    (json_data,), _, _ = json.loads(base64.b64decode(item.body))
    return json_data


def dump(value: Any) -> bytes:
    """JSON, in bytes."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        # It has narrower limits than the standard library: long integers, lone surrogates, depth.
        return json.dumps(value).encode()


def _origin() -> str:
    return f"gen{os.getpid()}@{_ORIGIN_HOST}"


def _shown(arguments: list[Any]) -> str:
    text = repr(arguments)
    return text if len(text) <= MAX_ARGS_REPR else text[: MAX_ARGS_REPR - 3] + "..."
