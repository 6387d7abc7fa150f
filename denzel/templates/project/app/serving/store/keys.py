"""Names of all keys in Redis; Lua scripts have the constants under the same names."""

from __future__ import annotations

#: The list of waiting tasks, as Kombu's Redis transport stores a queue: added on the left, taken from the right.
QUEUE = "denzel"

#: Kombu's own: the hash of messages that are claimed and not finished, by the ids of their tasks.
UNACKED = "unacked"

#: The hash of the owner of each of these; the times when owners last claimed, or renewed their leases; and the time of
#: the last search for claims whose lease is over.
OWNERS = "denzel:claimants"
LEASES = "denzel:leases"
LAST_RECLAIM = "denzel:swept"

#: The number of tasks ever accepted; and the ids of those that wait, in that order.
ACCEPTED = "denzel:accepted"
WAITING = "denzel:waiting"

#: The ids of dead letters, by the time of their last delivery; each one's message is at `quarantined(id)`.
DEAD_LETTERS = "denzel:quarantine"

#: The endpoints (host:port) with callbacks waiting, by the time when the first is due; and those that are down.
ENDPOINTS = "denzel:receivers"
ENDPOINTS_DOWN = "denzel:receivers:down"

#: Every callback that was not delivered, failed ones too, by the time when its task ended; and those that are being
#: sent, by the end of their lease.
UNDELIVERED = "denzel:undelivered"
SENDING = "denzel:callbacks:sending"

#: A list that is not empty while the sender of callbacks has something to look for.
WAKEUP = "denzel:callbacks:bell"

#: The channel of ended tasks: a JSON list of their ids. See also `completions(process)`.
COMPLETIONS = "denzel:ended"

#: A hash with `count` and `mean`: how many tasks have run, and a moving average of the seconds that one takes.
RUN_TIMES = "denzel:run_times"

#: A hash with `mode` and `timeout`, when `denzel response` has changed the response mode.
RESPONSE = "denzel:response"

#: The set of registered workers; each one's report is at `worker(name)`.
WORKERS = "denzel:workers"

#: Prefixes of the keys below.
TASK = "denzel:task:"
CALLBACKS = "denzel:callbacks:to:"
DEAD_LETTER = "denzel:quarantine:task:"
OUTPUT = "denzel:output:"
CHANGES = "denzel:changed:"


def task(task_id: str) -> str:
    """The record of one task: `status`, `callback_uri`, in the end `result`; and `awaited`, the channel of its
    end, if a request waits for that, and `followed`, if its changes are to be announced.
    """
    return TASK + task_id


def output(task_id: str) -> str:
    """The list of what the current delivery of a task has yielded so far, as JSON; of much, the latest."""
    return OUTPUT + task_id


def changes(task_id: str) -> str:
    """The channel on which changes of one followed task are announced, with no text."""
    return CHANGES + task_id


def callbacks(endpoint: str) -> str:
    """The callbacks that wait for one endpoint (host:port), by the time when each is due."""
    return CALLBACKS + endpoint


def dead_letter(task_id: str) -> str:
    """The hash of one dead letter: its message, and the fields of its record that outlive the record."""
    return DEAD_LETTER + task_id


def completions(process: str) -> str:
    """The channel of ended tasks for which requests of one process of the api wait: a JSON list of `[id, status,
    result]`, or `[id]` where the result is too long.
    """
    return f"{COMPLETIONS}:{process}"


def idempotency(digest: str) -> str:
    """The task that was accepted with an `Idempotency-Key` of this digest, and the digest of its body."""
    return f"denzel:idempotency:{digest}"


def worker(name: str) -> str:
    """The hash of one worker's report, with a field for each process; it expires without heartbeats."""
    return f"denzel:worker:{name}"
