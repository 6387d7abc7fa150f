"""Celery messages (protocol 2) of tasks, in the form in which Kombu's Redis transport stores them.

Celery's own publisher needs several round trips and cannot be joined with another write. With the message written
here, a task's record and its place on the queue are one step. Source of the format:
https://docs.celeryq.dev/en/stable/internals/protocol.html
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import orjson

from app.serving.store import keys
from app.serving.text import bounded

TASK_NAME = "app.tasks.invoke_predict"

#: Characters of a task's id at most: our own are UUIDs. Scripts read an id without decoding JSON.
MAX_ID = 255
_PLAIN_ID = re.compile(r"[ !#-\[\]-~]+")

#: Members of a message's headers with the request's headers of these names, where it had them.
TRACEPARENT, REQUEST_ID = "traceparent", "x_request_id"

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
    """A task from its message: its id, the body as it is encoded, its arguments as the dashboard shows them, and since
    when it waited until it was claimed, in seconds since 1970; the number of this delivery, and headers of its request.
    """

    task_id: str
    body: str
    args_repr: str
    since: float
    delivery: int = 1
    traceparent: str | None = None
    request_id: str | None = None


class ForeignMessage(ValueError):
    """A message of another Celery client that is no task that could run here; the message says why."""


def task_message(task_id: str, verified: Any, headers: Mapping[str, str] | None = None) -> str:
    """The text to push onto the queue, for the task `task_id` over what verify_input returned (JSON values); with these
    of the request's headers, by the names TRACEPARENT and REQUEST_ID.
    """
    arguments = [verified]
    body = base64.b64encode(dump([arguments, {}, _AFTER_ARGUMENTS])).decode()
    # `repr` has escapes for what orjson cannot write.
    args_repr = orjson.dumps(bounded(repr(arguments), MAX_ARGS_REPR)).decode()
    middle = f", {dump(headers).decode()[1:-1]}{_middle()}" if headers else _middle()
    return f"{_HEAD.replace('TASK ID', task_id)}{args_repr}{middle}{body}{_END}"


def parse(message: str, since: float, *, task_id: str = "", delivery: int = 1) -> QueuedTask:
    """The task of a message that waited since then, and was claimed under this id, if it is known, for so many times.

    Raises ForeignMessage for what only another worker could run.
    """
    try:
        stored = orjson.loads(message)
        headers, properties = stored["headers"], stored["properties"]
        if task_id and headers["id"] != task_id:
            raise ForeignMessage("its id does not stand where Celery writes it")
        is_ours = headers["id"] == properties["delivery_tag"] and headers["task"] == TASK_NAME
        if not is_ours or headers["eta"] or headers["expires"] or len(headers["id"]) > MAX_ID:
            _check_foreign(stored, headers, properties)
        trace = (headers.get(TRACEPARENT), headers.get(REQUEST_ID))
        return QueuedTask(headers["id"], stored["body"], headers["argsrepr"], since, delivery, *trace)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ForeignMessage):
            raise
        raise ForeignMessage("not a task in version 2 of Celery's message protocol") from error


def _check_foreign(stored: dict[str, Any], headers: dict[str, Any], properties: dict[str, Any]) -> None:
    """Raise ForeignMessage unless another client's message is a plain task of ours."""
    if headers["task"] != TASK_NAME:
        raise ForeignMessage(f"the task {headers['task']} is not known here; there is {TASK_NAME} alone")
    for name in ("eta", "expires"):
        if headers.get(name):
            raise ForeignMessage(f"{name} is {headers[name]}; send it without: tasks run when a process is free")
    if not _PLAIN_ID.fullmatch(headers["id"]):
        raise ForeignMessage("its id has other characters than printable ASCII, or quotes or backslashes")
    if len(headers["id"]) > MAX_ID:
        raise ForeignMessage(f"its id has {len(headers['id'])} characters; it may have {MAX_ID}")
    if stored["content-type"] != "application/json" or headers.get("compression"):
        kind = headers.get("compression") or stored["content-type"]
        raise ForeignMessage(f"its content is {kind}: tasks are plain JSON")
    if properties.get("body_encoding") != "base64":
        raise ForeignMessage(f"its body_encoding is {properties.get('body_encoding')}; it must be base64")
    _, _, embedded = orjson.loads(base64.b64decode(stored["body"]))
    if any(embedded.values()) or headers.get("group"):
        raise ForeignMessage("it is part of a group, chain or chord, or has callbacks: tasks are run alone")


def decode_input(task: QueuedTask) -> Any:
    """The task's input: the return value of verify_input. Raises TypeError for other arguments than this one."""
    arguments, named, _ = json.loads(base64.b64decode(task.body).decode())
    if len(arguments) == 1 and not named:
        return arguments[0]
    if not arguments and set(named) == {"json_data"}:
        return named["json_data"]
    raise TypeError(f"{TASK_NAME} takes one argument, json_data: what verify_input would return")


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
