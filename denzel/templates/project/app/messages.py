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
from typing import Any

from app import keys

TASK_NAME = "app.tasks.invoke_predict"

#: The dashboard shows arguments up to this many characters.
SHOWN_ARGUMENTS = 1024

_ORIGIN_HOST = socket.gethostname()


def task_message(task_id: str, verified: Any) -> str:
    """The text to push onto the queue, for the task `task_id` over what verify_input returned (JSON values)."""
    arguments = [verified]
    body = [arguments, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    headers: dict[str, Any] = {
        "lang": "py",
        "task": TASK_NAME,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": _shown(arguments),
        "kwargsrepr": "{}",
        "origin": f"gen{os.getpid()}@{_ORIGIN_HOST}",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties = {
        "correlation_id": task_id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": keys.QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        # Kombu would invent one; this one lets whoever has the task's id find its message.
        "delivery_tag": task_id,
    }
    return json.dumps(
        # The body comes last: what looks for an id need not read it.
        {
            "properties": properties,
            "headers": headers,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
        }
    )


def _shown(arguments: list[Any]) -> str:
    text = repr(arguments)
    return text if len(text) <= SHOWN_ARGUMENTS else text[: SHOWN_ARGUMENTS - 3] + "..."
