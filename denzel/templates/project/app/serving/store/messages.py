"""Celery messages (protocol 2) of tasks, in the form in which Kombu's Redis transport stores them.

Celery's own publisher needs several round trips and cannot be joined with another write. With the message written
here, a task's record and its place on the queue are one step. Source of the format:
https://docs.celeryq.dev/en/stable/internals/protocol.html
"""

from __future__ import annotations

import base64
import json
import os
import socket
from functools import cache
from typing import Any, NamedTuple

import orjson

from app.serving.store import keys

TASK_NAME = "app.tasks.invoke_predict"

#: Characters of the arguments that the dashboard shows at most.
MAX_ARGS_REPR = 1024

# What all messages have in common. The body comes last, so that a search for an id need not read it.
_TEMPLATE = json.dumps(
    {
        "properties": {
            "correlation_id": "TASK ID",
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": keys.QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            # Kombu would make one up; with this one, the task's id finds its message.
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
    """A task that may run in a batch, from its message: its id, the body (base64), its arguments as the dashboard shows
    them, and since when it waited until it was claimed, in seconds since 1970.
    """

    task_id: str
    body: str
    args_repr: str
    since: float

    @property
    def has_ended(self) -> bool:
        """True when its message is gone, so that nothing but its id is known."""
        return not self.body


def task_message(task_id: str, verified: Any) -> str:
    """The text to push onto the queue, for the task `task_id` over what verify_input returned (JSON values)."""
    arguments = [verified]
    body = base64.b64encode(dump([arguments, {}, _AFTER_ARGUMENTS])).decode()
    # `repr` has escapes for what orjson cannot write.
    args_repr = orjson.dumps(_args_repr(arguments)).decode()
    return f"{_HEAD.replace('TASK ID', task_id)}{args_repr}{_middle()}{body}{_END}"


def parse(message: str, since: float) -> QueuedTask | None:
    """The task of a message; None where Celery itself must run it: one with `eta` or `expires`, or another client's."""
    try:
        stored = orjson.loads(message)
        headers, tag = stored["headers"], stored["properties"]["delivery_tag"]
        needs_celery = headers["task"] != TASK_NAME or tag != headers["id"] or headers["eta"] or headers["expires"]
        task = QueuedTask(headers["id"], stored["body"], headers["argsrepr"], since)
    except (ValueError, KeyError, TypeError):
        return None
    return None if needs_celery else task


def decode_input(task: QueuedTask) -> Any:
    """The task's input: the return value of verify_input."""
    (json_data,), _, _ = json.loads(base64.b64decode(task.body))
    return json_data


def dump(value: Any) -> bytes:
    """`value` as JSON, in bytes."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        # It has narrower limits than the standard library: long integers, lone surrogates, depth.
        return json.dumps(value).encode()


@cache
def _middle() -> str:
    return _MIDDLE.replace("ORIGIN", f"gen{os.getpid()}@{socket.gethostname()}")


def _args_repr(arguments: list[Any]) -> str:
    text = repr(arguments)
    return text if len(text) <= MAX_ARGS_REPR else text[: MAX_ARGS_REPR - 3] + "..."
