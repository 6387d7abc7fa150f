"""The name of everything this project stores in Redis."""

from __future__ import annotations

#: The list of waiting tasks, as Kombu's Redis transport stores a queue: added on the left, taken from the right.
QUEUE = "denzel"

#: The hash in which Kombu keeps messages that a worker has taken and not finished.
UNACKED = "unacked"

#: The list of ended tasks whose result is still to be sent to its `callback_uri`.
CALLBACKS = "denzel:callbacks"

#: The channel on which the id of each task is announced when it ends.
ENDED = "denzel:ended"

#: A hash with `mode` and `timeout`, while `denzel response` has changed how a running api answers.
RESPONSE = "denzel:response"

#: The set of workers that have reported; each one's report is at `worker(name)`.
WORKERS = "denzel:workers"


def task(task_id: str) -> str:
    """The hash that is the record of one task."""
    return f"denzel:task:{task_id}"


def worker(name: str) -> str:
    """The hash of what one worker's processes report; it expires when the worker no longer renews it."""
    return f"denzel:worker:{name}"
