"""The name of everything this project stores in Redis."""

from __future__ import annotations

#: The list of waiting tasks, as Kombu's Redis transport stores a queue: added on the left, taken from the right.
QUEUE = "denzel"

#: Kombu's own: the hash of messages that a worker has taken and not finished, and when each was taken or last renewed.
UNACKED = "unacked"
UNACKED_INDEX = "unacked_index"

#: The hash of which worker holds which of these.
OWNERS = "denzel:claimants"

#: When expired claims were last looked for.
LAST_RECLAIM = "denzel:swept"

#: How many tasks were ever accepted; and the ids of those that wait, in the order in which they were.
ACCEPTED = "denzel:accepted"
WAITING = "denzel:waiting"

#: The ids of tasks that killed their process too often, by the time of the last; what each was is at `quarantined(id)`.
QUARANTINE = "denzel:quarantine"

#: The receivers (host:port) that callbacks wait for, by the time when the first of these is due; and those that failed
#: when last tried.
ENDPOINTS = "denzel:receivers"
ENDPOINTS_DOWN = "denzel:receivers:down"

#: Every callback that has not been delivered, given up or not, by the time when its task ended; and those of them that
#: are being sent, by the time until which their sender has them.
UNDELIVERED = "denzel:undelivered"
SENDING = "denzel:callbacks:sending"

#: A list that holds something while there is news for the sender of callbacks.
WAKEUP = "denzel:callbacks:bell"

#: The channel on which the id of each task is announced when it ends.
COMPLETIONS = "denzel:ended"

#: A hash with `mode` and `timeout`, while `denzel response` has changed how a running api answers.
RESPONSE = "denzel:response"

#: The set of workers that have reported; each one's report is at `worker(name)`.
WORKERS = "denzel:workers"

#: What the keys below begin with.
TASK = "denzel:task:"
CALLBACKS = "denzel:callbacks:to:"
QUARANTINED = "denzel:quarantine:task:"


def task(task_id: str) -> str:
    """The hash that is the record of one task."""
    return TASK + task_id


def callbacks(receiver: str) -> str:
    """The callbacks that wait for one receiver (host:port), by the time when each is due."""
    return CALLBACKS + receiver


def quarantined(task_id: str) -> str:
    """The hash with the message of a task that killed its process too often, and what of its record must be kept."""
    return QUARANTINED + task_id


def taken(host: str) -> str:
    """How many messages the worker on one host has taken; it expires when there are none for a while."""
    return f"denzel:taken:{host}"


def note(owner: str) -> str:
    """What a process of a worker that stays at the queue has taken last."""
    return f"denzel:note:{owner}"


def idempotency(digest: str) -> str:
    """The hash that says which task was accepted with one `Idempotency-Key`, of which this is the digest."""
    return f"denzel:idempotency:{digest}"


def loads(name: str) -> str:
    """The hash of the hosts on which one worker's main process loads the model itself, LOADING or DIED before."""
    return f"denzel:loads:{name}"


def worker(name: str) -> str:
    """The hash of what one worker's processes report; it expires when the worker no longer renews it."""
    return f"denzel:worker:{name}"
