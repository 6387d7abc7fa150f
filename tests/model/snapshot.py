"""All that is in the store, read in one round trip, beside all that should be; and what must hold of it in any case."""

from __future__ import annotations

import json
from typing import Any

from model.reference import DELIVERIES, ENDPOINTS, LETTER_TTL, Reference, Task, announcement
from model.virtual_time import EXPIRY, NOW, PUBLISHED
from redis import Redis

from app.serving.store import keys
from app.serving.store.tasks import PENDING, REVOKED, TERMINAL_STATES

Snapshot = dict[str, Any]

# The fields of a record that somebody reads; the others are compared by what they lead to.
_NUMBERS = (
    *("since", "deliveries", "replays", "accepted", "started", "ended", "restarts", "reports", "outputs"),
    *("outputs_from", "output_bytes", "followed", "callback_attempts", "callback_first"),
)
_TEXTS = ("progress", "status", "result", "callback", "callback_status", "callback_error")


# One answer is read in half the time of forty. KEYS are sorted sets; ARGV is the number of fields, the fields of a
# record, then the ids of tasks.
_READ = f"""
local fields, sets, records, outputs = {{unpack(ARGV, 2, ARGV[1] + 1)}}, {{}}, {{}}, {{}}
for i, key in ipairs(KEYS) do
    sets[i] = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
end
for i = #fields + 2, #ARGV do
    records[#records + 1] = redis.call('HMGET', '{keys.TASK}' .. ARGV[i], unpack(fields))
    outputs[#outputs + 1] = redis.call('LRANGE', '{keys.OUTPUT}' .. ARGV[i], 0, -1)
end
local published = redis.call('LRANGE', '{PUBLISHED}', 0, -1)
redis.call('DEL', '{PUBLISHED}')
return {{sets, records, published, redis.call('KEYS', '*'), redis.call('LRANGE', '{keys.QUEUE}', 0, -1),
    redis.call('HGETALL', '{keys.UNACKED}'), redis.call('HGETALL', '{keys.OWNERS}'),
    redis.call('SMEMBERS', '{keys.ENDPOINTS_DOWN}'), redis.call('LLEN', '{keys.WAKEUP}'), outputs,
    redis.call('HMGET', '{keys.RUN_TIMES}', 'count', 'mean')}}
"""

_SETS = (
    *(keys.LEASES, keys.SENDING, keys.UNDELIVERED, keys.ENDPOINTS, keys.DEAD_LETTERS, keys.WAITING, EXPIRY),
    *map(keys.callbacks, ENDPOINTS),
)


class Reader:
    """Reads all that is in one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._script = redis.register_script(_READ)

    def read(self, reference: Reference) -> Snapshot:
        """The state of Redis, in the shape of `expected`; the list of what was published is emptied."""
        fields = [*_NUMBERS, *_TEXTS]
        answer = self._script(keys=_SETS, args=[len(fields), *fields, *reference.tasks])
        sets, records, published, names, queue, unacked, owners, down, wakeup, outputs, run_times = answer
        leases, sending, undelivered, next_due, letters, waiting, expiry, *lists = map(_scores, sets)
        return {
            "records": {task_id: _record(fields) for task_id, fields in zip(reference.tasks, records, strict=True)},
            "queue": [json.loads(message)["headers"]["id"] for message in reversed(queue)],
            "waiting": list(waiting),
            "messages": {task_id: json.loads(text)[0]["headers"]["id"] for task_id, text in _pairs(unacked).items()},
            "owners": _pairs(owners),
            "leases": leases,
            "callbacks": dict(zip(ENDPOINTS, lists, strict=True)),
            "sending": sending,
            "undelivered": undelivered,
            "next_due": next_due,
            "down": set(down),
            "wakeup": wakeup,
            "outputs": {task_id: kept for task_id, kept in zip(reference.tasks, outputs, strict=True) if kept},
            "run_times": tuple(float(number or 0) for number in run_times),
            # One that has expired is listed until the next one comes.
            "letters": {task_id: since for task_id, since in letters.items() if since > reference.now - LETTER_TTL},
            "announced": sorted(
                announcement(channel, ended)
                for channel, message in zip(published[::2], published[1::2], strict=True)
                for ended in (json.loads(message) if message else [""])
            ),
            "expiry": expiry,
            "keys": {name for name in names if name.startswith(_OF_TASKS)},
            "others": {name for name in names if not name.startswith((*_OF_TASKS, keys.CALLBACKS))} - _KNOWN,
        }


_OF_TASKS = (keys.TASK, keys.DEAD_LETTER, keys.OUTPUT, keys.idempotency(""))
_KNOWN = {value for name, value in vars(keys).items() if name.isupper()} | {NOW, EXPIRY, PUBLISHED}


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _scores(flat: list[str]) -> dict[str, float]:
    return {member: float(score) for member, score in _pairs(flat).items()}


def _record(fields: list[str | None]) -> tuple[float | str | None, ...]:
    numbers = fields[: len(_NUMBERS)]
    return (*(None if text is None else float(text) for text in numbers), *fields[len(_NUMBERS) :])


def expected(reference: Reference) -> Snapshot:
    """The state that should be there, without what `check` looks at in other ways: `down` and `others`."""
    tasks = reference.tasks
    waiting = {task_id: task for task_id, task in tasks.items() if task.status == PENDING}
    lists = {endpoint: reference.waiting(endpoint) for endpoint in ENDPOINTS}
    sending = {task_id: task.callback.lease for task_id, task in tasks.items() if task.callback}
    return {
        "records": {task_id: _expected_record(task) for task_id, task in tasks.items()},
        "queue": [message.task_id for message in reference.queue],
        "waiting": sorted(waiting, key=lambda task_id: (waiting[task_id].place or 0, task_id)),
        "messages": {task_id: claim.message.task_id for task_id, claim in reference.claims.items()},
        "owners": {task_id: f"{claim.owner}.{claim.epoch}" for task_id, claim in reference.claims.items()},
        "leases": reference.leases,
        "callbacks": lists,
        "sending": {task_id: lease for task_id, lease in sending.items() if lease is not None},
        "undelivered": reference.undelivered,
        "next_due": {endpoint: min(of_one.values()) for endpoint, of_one in lists.items() if of_one},
        "wakeup": int(reference.wakeup),
        "outputs": {task_id: task.kept for task_id, task in tasks.items() if task.kept},
        "run_times": (reference.runs, reference.run_time),
        "letters": {task_id: letter.since for task_id, letter in reference.letters.items()},
        "announced": sorted(reference.announced),
        "expiry": reference.expiry(),
        "keys": {
            *map(keys.task, tasks),
            *map(keys.dead_letter, reference.letters),
            *(keys.output(task_id) for task_id, task in tasks.items() if task.kept),
            *(task.idempotency for task in tasks.values() if task.idempotency),
        },
    }


def _expected_record(task: Task) -> tuple[float | str | None, ...]:
    sending, has_output = task.callback, task.outputs is not None
    numbers = (
        *(task.since, task.deliveries, task.replays or None, task.accepted, task.started, task.ended),
        *(task.restarts or None, task.reports or None, task.outputs),
        *((task.outputs_from, task.output_bytes) if has_output else (None, None)),
        1 if task.followed else None,
    )
    if sending is None:
        return (*numbers, None, None, task.progress, task.status, task.result, None, None, None)
    return (
        *(*numbers, sending.attempts or None, sending.first, task.progress, task.status, task.result),
        *(sending.state, sending.status, sending.error),
    )


def check(seen: Snapshot, reference: Reference) -> None:
    """The invariants that hold whatever has happened, in the words of the promises."""
    _check_places(seen, reference)
    _check_callbacks(seen, reference)
    assert seen["others"] == set(), "nothing is left behind under another name"


def _check_places(seen: Snapshot, reference: Reference) -> None:
    assert seen["messages"].keys() == seen["owners"].keys(), "the tables of claims agree"
    places = [*seen["queue"], *seen["messages"].values()]
    for task_id, (_, deliveries, *_, status, result, _, _, _) in seen["records"].items():
        has_ended = status in TERMINAL_STATES
        assert has_ended == (result is not None), f"{task_id}: status and result agree"
        assert (deliveries or 0) <= DELIVERIES, f"{task_id}: deliveries are bounded"
        assert (status == PENDING) == (task_id in seen["waiting"]), f"{task_id}: status and position agree"
        if not has_ended:
            assert places.count(task_id) == 1, f"{task_id}: an accepted task is in exactly one place"
            assert (status == "STARTED") == (task_id not in seen["queue"]), f"{task_id}: status and place agree"
        elif status != REVOKED and reference.tasks[task_id].status == status:
            assert places.count(task_id) <= 1, f"{task_id}: an ended task has one message at most"


def _check_callbacks(seen: Snapshot, reference: Reference) -> None:
    tasks = reference.tasks
    for endpoint, waiting in seen["callbacks"].items():
        of_endpoint = [one for one in seen["sending"] if one in tasks and tasks[one].endpoint == endpoint]
        assert endpoint not in seen["down"] or waiting or of_endpoint, f"{endpoint}: no mark without a callback"
    lists = [task_id for waiting in seen["callbacks"].values() for task_id in waiting]
    for task_id, record in seen["records"].items():
        places = [*lists, *seen["sending"]].count(task_id)
        state = record[-3]
        assert places == (state == "PENDING"), f"{task_id}: a pending callback is in one place, any other in none"
        assert (state in ("PENDING", "FAILED")) == (task_id in seen["undelivered"]), f"{task_id}: callbacks are listed"
        if state == "PENDING":
            assert keys.task(task_id) not in seen["expiry"], f"{task_id}: a record outlives its pending callback"
