"""The store as it should be: the same steps as the scripts', on plain Python data."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.serving.store import keys
from app.serving.store.claims import CLAIM_LEASE
from app.serving.store.outbox import CALLBACK_LEASE, LONE_FAILURES, AttemptResult, Callback
from app.serving.store.tasks import FAILURE, PENDING, REVOKED, Completion

DELIVERIES = 3
RESULT_TTL, CALLBACK_TTL = 600, 3600
ENDPOINTS = ("one.example:80", "two.example:80")
LETTER_TTL = 30 * 24 * 3600

# Few, so that they are reached.
MAX_OUTPUTS, MAX_OUTPUT_BYTES, MAX_OUTPUTS_READ, MAX_BYTES_READ = 4, 10, 2, 5


class Message(NamedTuple):
    """A message in the queue or with an owner. One that another Celery client sent has no record until it is taken."""

    task_id: str
    is_foreign: bool = False


class Claim(NamedTuple):
    """A claimed message."""

    message: Message
    owner: str
    epoch: int


@dataclass
class Sending:
    """A task's callback: waiting until it is due, or leased, or neither."""

    state: str = "PENDING"
    due: float | None = None
    lease: float | None = None
    attempts: int = 0
    status: str | None = None
    error: str | None = None
    first: float | None = None
    away: bool = False
    alone: int = 0


@dataclass
class Task:
    """A record."""

    status: str | None = PENDING
    since: float | None = None
    place: int | None = None
    result: str | None = None
    deliveries: int | None = None
    endpoint: str | None = None
    replays: int = 0
    channel: str = ""
    idempotency: str | None = None
    callback: Sending | None = None
    expires: float | None = None
    accepted: float | None = None
    started: float | None = None
    ended: float | None = None
    restarts: int = 0
    followed: bool = False
    progress: str | None = None
    reports: int = 0
    #: How many outputs there were, None before the first report with any; those that are kept, and until when.
    outputs: int | None = None
    outputs_from: int = 0
    output_bytes: int = 0
    kept: list[str] = field(default_factory=list)
    kept_until: float | None = None

    def void_reports(self) -> None:
        self.restarts += 1
        self.started, self.progress, self.reports, self.outputs, self.kept = None, None, 0, None, []
        self.outputs_from = 0


class Letter(NamedTuple):
    """A dead letter."""

    message: Message
    deliveries: int
    reason: str
    since: float
    endpoint: str | None
    replays: int


def announcement(channel: str, ended: str | list[str] = "") -> str:
    """The announcement of one end, or of a change, on a channel, as it is compared."""
    return f"{channel} {json.dumps(ended)}"


class Reference:
    """The state of tasks, claims, outbox and dead letters. `down` is read from the store, as it is a hint there."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.accepted = 0
        self.tasks: dict[str, Task] = {}
        self.bodies: dict[str, tuple[str, str]] = {}
        self.queue: list[Message] = []
        self.claims: dict[str, Claim] = {}
        self.leases: dict[str, float] = {}
        self.last_reclaim = 0.0
        self.letters: dict[str, Letter] = {}
        self.undelivered: dict[str, float] = {}
        self.down: set[str] = set()
        self.wakeup = False
        self.announced: list[str] = []
        self.runs, self.run_time = 0, 0.0

    # ------------------------------------------------------------------ time

    def wait(self, seconds: float) -> None:
        """Less than nothing when the clock is set back."""
        self.now += seconds
        for task_id, task in list(self.tasks.items()):
            if task.expires is not None and task.expires <= self.now:
                del self.tasks[task_id]
                if task.idempotency:
                    del self.bodies[task.idempotency]
            elif task.kept_until is not None and task.kept_until <= self.now:
                task.kept, task.kept_until = [], None
        for task_id, letter in list(self.letters.items()):
            if letter.since + LETTER_TTL <= self.now:
                del self.letters[task_id]

    # ------------------------------------------------------------------ tasks

    def accept(
        self, task_id: str, endpoint: str | None, idempotency: tuple[str, str] | None, limit: int, channel: str
    ) -> str:
        """The id of the task that was accepted, or FULL or OTHER BODY."""
        if idempotency and idempotency[0] in self.bodies:
            body, earlier = self.bodies[idempotency[0]]
            return earlier if body == idempotency[1] else "OTHER BODY"
        if task_id in self.tasks:
            return task_id
        if len(self.queue) >= limit:
            return "FULL"
        self.accepted += 1
        task = Task(since=self.now, accepted=self.now, place=self.accepted, endpoint=endpoint, channel=channel)
        self.tasks[task_id] = task
        if idempotency:
            task.idempotency = idempotency[0]
            self.bodies[idempotency[0]] = (idempotency[1], task_id)
        self.queue.append(Message(task_id))
        return task_id

    def complete(self, completions: Iterable[Completion]) -> None:
        """The first end stands, and the message is done with, whoever has it."""
        runs: dict[float, int] = {}
        for task_id, status, result in completions:
            self.claims.pop(task_id, None)
            task = self.tasks.setdefault(task_id, Task(status=None))
            if task.result is not None:
                continue
            task.status, task.result, task.ended = status, result, self.now
            if task.kept:
                task.kept_until = self.now + RESULT_TTL
            if task.started is not None and status != REVOKED:
                runs[task.started] = runs.get(task.started, 0) + 1
            if task.endpoint:
                task.callback = Sending(due=self.now)
                self.undelivered[task_id] = self.now
                self.wakeup = True
            else:
                task.expires = self.now + RESULT_TTL
            self.announced.append(announcement(keys.COMPLETIONS, task_id))
            if task.channel:
                self.announced.append(announcement(task.channel, [task_id, status, result]))
            self._announce_change(task_id)
        for started, number in runs.items():
            self.runs += number
            each = max(0.0, self.now - started) / number
            self.run_time += (each - self.run_time) * min(1, number / min(self.runs, 100))

    def _announce_change(self, task_id: str) -> None:
        if self.tasks[task_id].followed:
            self.announced.append(announcement(keys.changes(task_id)))

    def cancel(self, task_id: str) -> str | None:
        task = self.tasks.get(task_id)
        if task and task.result is None:
            self.complete([Completion(task_id, REVOKED, json.dumps({"args": ["cancelled"]}))])
        return task.status if task else None

    # ------------------------------------------------------------------ claims

    def take(self, owner: str, epoch: int, limit: int, sharers: int) -> tuple[list[tuple[str, int, float]], list[str]]:
        """(id, deliveries, waiting since) of each task claimed, and the ids of those that were cancelled."""
        if sharers:
            limit = max(1, min(limit, -(-len(self.queue) // sharers)))
        taken: list[tuple[str, int, float]] = []
        cancelled = []
        while self.queue and len(taken) < limit:
            message = self.queue[0]
            task = self.tasks.get(message.task_id)
            if task is None and message.is_foreign:
                task = self.tasks[message.task_id] = Task()
            if task and task.result is None and task.deliveries and taken:
                break
            del self.queue[0]
            if task and task.status == REVOKED:
                cancelled.append(message.task_id)
            if task is None or task.result is not None:
                continue
            was_delivered = bool(task.deliveries)
            task.deliveries = (task.deliveries or 0) + 1
            taken.append((message.task_id, task.deliveries, task.since or self.now))
            task.status, task.since, task.started = "STARTED", self.now, self.now
            self._announce_change(message.task_id)
            self.claims[message.task_id] = Claim(message, owner, epoch)
            if was_delivered:
                break
        if taken:
            self.leases[owner] = self.now
        return taken, cancelled

    def requeue(self, task_ids: Iterable[str], died: Collection[str]) -> list[str]:
        """Put these back at the head, in the order of the queue; returns the ids of those that became dead letters."""
        lettered = []
        for task_id in sorted(task_ids, key=self._place, reverse=True):
            message = self.claims.pop(task_id).message
            task = self.tasks.setdefault(task_id, Task(status=None))
            if task.result is not None:
                continue
            task.deliveries = (task.deliveries or 0) - (0 if task_id in died else 1)
            if task.deliveries >= DELIVERIES:
                lettered.append(task_id)
                times = "once" if task.deliveries == 1 else f"{task.deliveries} times"
                self.dead_letter(message, f"the worker died while running this task, {times}")
                continue
            task.void_reports()
            task.status, task.since = PENDING, self.now
            self._announce_change(task_id)
            self.queue.insert(0, message)
        return lettered

    def _place(self, task_id: str) -> int:
        task = self.tasks.get(task_id)
        return (task and task.place) or 0

    def owned(self, owner: str) -> list[str]:
        """The ids of the tasks that an owner has."""
        return [task_id for task_id, claim in self.claims.items() if claim.owner == owner]

    def dead_letter(self, message: Message, reason: str, kind: str = "WorkerDied") -> None:
        task = self.tasks[message.task_id]
        letter = Letter(message, task.deliveries or 0, reason, self.now, task.endpoint, task.replays)
        self.letters[message.task_id] = letter
        error = {"type": kind, "message": reason}
        result = json.dumps({"args": [reason], "error": error}, separators=(",", ":"))
        self.complete([Completion(message.task_id, FAILURE, result)])

    def renew(self, host: str, living: Mapping[str, int]) -> list[str]:
        """The ids of tasks that became dead letters, as their owners are dead."""
        if not self.claims:
            return []
        if self.now - self.last_reclaim > CLAIM_LEASE / 2 or self.now < self.last_reclaim:
            self.leases = dict.fromkeys(self.leases, self.now)
        self.last_reclaim = self.now
        lost, died = [], []
        for task_id, (_, owner, epoch) in self.claims.items():
            if owner in living:
                self.leases[owner] = self.now
                if epoch < living[owner]:
                    lost.append(task_id)
            elif owner.startswith(f"{host}/") or self.now - self.leases.setdefault(owner, self.now) > CLAIM_LEASE:
                died.append(task_id)
        lettered = self.requeue([*lost, *died], died)
        self.leases = {owner: at for owner, at in self.leases.items() if at > self.now - 10 * CLAIM_LEASE}
        return lettered

    def replay(self, task_id: str) -> bool:
        letter = self.letters.pop(task_id, None)
        if letter is None:
            return False
        before = self.tasks.get(task_id)
        self.undelivered.pop(task_id, None)
        self.accepted += 1
        self.tasks[task_id] = Task(
            since=self.now,
            accepted=self.now,
            restarts=(before.restarts if before else 0) + 1,
            place=self.accepted,
            endpoint=letter.endpoint,
            replays=letter.replays + 1,
            idempotency=before.idempotency if before else None,
        )
        self.queue.append(letter.message)
        return True

    # ------------------------------------------------------------------ reports

    def report(self, owner: str, epoch: int, task_id: str, progress: str, before: int, outputs: list[str]) -> None:
        """Take a report of the task's process, behind so many outputs; another's is void."""
        task, claim = self.tasks.get(task_id), self.claims.get(task_id)
        if task is None or claim is None or task.status != "STARTED" or (claim.owner, claim.epoch) != (owner, epoch):
            return
        if progress:
            task.progress, task.reports = progress, task.reports + 1
        if outputs or before > (task.outputs or 0):
            total = task.outputs or 0
            if before > total:
                total, task.kept = before, []
            new = outputs[total - before :]
            task.outputs, task.kept = total + len(new), task.kept + new
            while len(task.kept) > MAX_OUTPUTS or sum(map(len, task.kept)) > MAX_OUTPUT_BYTES:
                del task.kept[0]
            task.outputs_from, task.output_bytes = task.outputs - len(task.kept), sum(map(len, task.kept))
        self._announce_change(task_id)

    def follow(self, task_id: str, restarts: int, seen: int) -> tuple[int, list[str], bool] | None:
        """The number of outputs before those in the answer, these, and whether the record is there too."""
        task = self.tasks.get(task_id)
        if task is None or task.status is None:
            return None
        has_ended = task.result is not None
        task.followed = task.followed or not has_ended
        total = task.outputs or 0
        first = max(task.outputs_from, min(seen, total) if restarts == task.restarts else 0)
        outputs = task.kept[first - task.outputs_from :][:MAX_OUTPUTS_READ]
        if not outputs:
            # They have expired, if there were any.
            first = total
        while len(outputs) > 1 and sum(map(len, outputs)) > MAX_BYTES_READ:
            del outputs[-1]
        return first, outputs, has_ended and first + len(outputs) == total

    # ------------------------------------------------------------------ outbox

    def end_leases(self) -> None:
        """A callback whose lease is over is due again; so is one leased before the clock was set back."""
        latest = self.now + 2 * CALLBACK_LEASE
        for task in self.tasks.values():
            sending = task.callback
            if sending and sending.lease is not None and not self.now < sending.lease <= latest:
                sending.due, sending.lease = self.now, None

    def lease(self, task_id: str) -> None:
        sending = self.sending(task_id)
        sending.due, sending.lease = None, self.now + CALLBACK_LEASE
        if sending.first is None:
            sending.first = self.now

    def sending(self, task_id: str) -> Sending:
        sending = self.tasks[task_id].callback
        assert sending is not None
        return sending

    def waiting(self, endpoint: str) -> dict[str, float]:
        """The callbacks that wait for this endpoint, and when each is due."""
        return {
            task_id: task.callback.due
            for task_id, task in self.tasks.items()
            if task.endpoint == endpoint and task.callback and task.callback.due is not None
        }

    def settle(self, attempts: Sequence[tuple[Callback, AttemptResult]]) -> None:
        down = set(self.down)
        for callback, result in attempts:
            self._settle(callback, result, down)

    def _settle(self, callback: Callback, result: AttemptResult, down: set[str]) -> None:
        task = self.tasks.get(callback.task_id)
        if task is None or task.callback is None:
            self.undelivered.pop(callback.task_id, None)
            return
        sending = task.callback
        if task.replays != callback.replays or sending.state != "PENDING":
            return
        if not result.delivered and sending.attempts > callback.attempts:
            return
        sending.attempts += 1
        sending.status = "" if result.status is None else str(result.status)
        if result.delivered:
            sending.state, sending.error, sending.due, sending.lease = "DELIVERED", None, None, None
            del self.undelivered[callback.task_id]
            task.expires = self.now + RESULT_TTL
            if callback.endpoint in down:
                down.discard(callback.endpoint)
                self._make_due(callback.endpoint)
            return
        sending.error, sending.lease = result.error, None
        if result.retry_in is None:
            sending.state, sending.due = "FAILED", None
            task.expires = self.now + CALLBACK_TTL
            if not self.waiting(callback.endpoint):
                down.discard(callback.endpoint)
            return
        if result.endpoint_down and callback.endpoint not in down:
            sending.alone += 1
        sending.away = result.endpoint_down and (callback.endpoint in down or sending.alone <= LONE_FAILURES)
        if sending.away:
            down.add(callback.endpoint)
        sending.due = self.now + result.retry_in

    def _make_due(self, endpoint: str) -> None:
        for task_id, due in self.waiting(endpoint).items():
            if self.sending(task_id).away:
                self.sending(task_id).due = min(due, self.now)

    def renew_callbacks(self, task_ids: Iterable[str]) -> None:
        for task in map(self.tasks.get, task_ids):
            if task and task.callback and task.callback.lease is not None:
                task.callback.lease = self.now + CALLBACK_LEASE

    def release(self, task_ids: Iterable[str]) -> None:
        for task in map(self.tasks.get, task_ids):
            if task and task.callback and task.callback.lease is not None:
                task.callback.due, task.callback.lease = self.now, None
                if not task.callback.attempts:
                    task.callback.first = None

    def resend(self, task_id: str) -> bool:
        task = self.tasks.get(task_id)
        if task is None or task.callback is None:
            return False
        lease = task.callback.lease
        task.callback = Sending(due=self.now if lease is None else None, lease=lease)
        task.expires = None
        self.undelivered.setdefault(task_id, self.now)
        self.wakeup = True
        return True

    def prune(self) -> None:
        self.undelivered = {task_id: at for task_id, at in self.undelivered.items() if task_id in self.tasks}

    # ------------------------------------------------------------------ the whole

    def expiry(self) -> dict[str, float]:
        """When each key expires that does."""
        times = {}
        for task_id, task in self.tasks.items():
            for key in (keys.task(task_id), task.idempotency):
                if task.expires is not None and key:
                    times[key] = task.expires
            if task.kept_until is not None:
                times[keys.output(task_id)] = task.kept_until
        return times | {keys.dead_letter(task_id): one.since + LETTER_TTL for task_id, one in self.letters.items()}
