"""Single steps of api, predicting processes, workers, senders and operator: each on the store and on the reference,
with everything compared after it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from model import snapshot
from model.reference import (
    CALLBACK_TTL,
    DELIVERIES,
    ENDPOINTS,
    MAX_BYTES_READ,
    MAX_OUTPUT_BYTES,
    MAX_OUTPUTS,
    MAX_OUTPUTS_READ,
    RESULT_TTL,
    Message,
    Reference,
)
from model.virtual_time import START, set_clock
from redis import Redis

from app.serving.store import keys, scripts
from app.serving.store.claims import CLAIM_LEASE, ClaimLimits, Claims, HostClaims
from app.serving.store.connection import DirectConnection
from app.serving.store.dead_letters import DeadLetters
from app.serving.store.messages import task_message
from app.serving.store.outbox import AttemptResult, Callback, Outbox
from app.serving.store.tasks import (
    PENDING,
    SUCCESS,
    Completion,
    Idempotency,
    KeyReused,
    NewTask,
    QueueFull,
    TaskStore,
    accept_arguments,
    read_accepted,
)

LIMITS = ClaimLimits(deliveries=DELIVERIES, ttl=RESULT_TTL)
HOSTS = ("h1", "h2")

# One more than outbox/take.lua leases to an endpoint that is down.
PER_ENDPOINT, ROOM_WHEN_DOWN = 5, 4


class Process:
    """A predicting process: what it has claimed and not ended, as far as it knows."""

    def __init__(self, redis: Redis, connection: DirectConnection, host: str, number: int) -> None:
        self.host = host
        self.claims = Claims(redis, LIMITS, f"{host}/{number}")
        # One for all, as there are hundreds of processes in one run.
        self.claims._connection = connection
        self.held: set[str] = set()
        # Those of them whose lease was never over.
        self.leased: set[str] = set()
        self.renewed_at = float("-inf")

    @property
    def owner(self) -> str:
        return self.claims.owner

    def forget(self) -> None:
        """All that it has; it may still be its own."""
        self.held.clear()
        self.leased.clear()


class Sender:
    """A sender of callbacks, and what it has in flight."""

    def __init__(self) -> None:
        self.in_flight: list[Callback] = []


class Steps:
    """One deployment."""

    def __init__(self, redis: Redis, connection: DirectConnection) -> None:
        redis.flushdb()
        self.redis = redis
        self.connection = connection
        self.reader = snapshot.Reader(redis)
        self.reference = Reference(START)
        set_clock(redis, START)
        self.store = TaskStore(redis)
        self.accept_script = scripts.register(redis, "tasks/accept")
        self.report_script = scripts.register(redis, "tasks/report")
        self.follow_script = scripts.register(redis, "tasks/follow")
        self.box = Outbox(redis, result_ttl=RESULT_TTL, callback_ttl=CALLBACK_TTL)
        self.letters = DeadLetters(redis)
        self.hosts = {host: HostClaims(redis, LIMITS, host=host) for host in HOSTS}
        self.number = 0
        self.opened: list[Process] = []
        self.processes = [self.new_process(host) for host in HOSTS * 2]
        self.senders = [Sender(), Sender()]
        self.messages: dict[str, str] = {}
        # What came back by callback, and what must: by task and replay.
        self.received: dict[tuple[str, int], set[str]] = {}
        self.promised: set[tuple[str, int]] = set()
        self.events: Counter[str] = Counter()
        self.is_sound = True

    def check(self) -> None:
        """Compare everything."""
        self.is_sound = False
        seen = self.reader.read(self.reference)
        snapshot.check(seen, self.reference)
        expected = snapshot.expected(self.reference)
        for name, should_be in expected.items():
            assert seen[name] == should_be, f"{name}: what is there, and what should be"
        self.reference.down = seen["down"]
        self.reference.announced.clear()
        self.promised.update(
            (task_id, task.replays) for task_id, task in self.reference.tasks.items() if task.callback is not None
        )
        self.is_sound = True

    def count(self) -> int:
        self.number += 1
        return self.number

    def close(self) -> None:
        """Close the connections of all processes that there were."""
        for process in self.opened:
            process.claims.close()

    def new_process(self, host: str) -> Process:
        process = Process(self.redis, self.connection, host, self.count())
        self.opened.append(process)
        return process

    # ------------------------------------------------------------------ the api

    def accept(
        self,
        endpoint: str | None = None,
        *,
        key: tuple[str, str] | None = None,
        limit: int = 100,
        channel: str = "",
        task_id: str = "",
    ) -> str:
        """A new task, or one more time an earlier one; its end is announced on a channel, if a request waits there.

        Returns what the reference does.
        """
        task_id = task_id or f"t{self.count()}"
        message = self.messages.setdefault(task_id, task_message(task_id, {"of": task_id}))
        idempotency = Idempotency(key=key[0], body=key[1]) if key else None
        uri = f"http://{endpoint.partition(':')[0]}/{task_id}" if endpoint else None
        prefer = "wait" if channel else ""
        new = NewTask(task_id=task_id, message=message, callback_uri=uri, idempotency=idempotency, prefer=prefer)
        answer = read_accepted(self.accept_script(args=accept_arguments(new, queue_limit=limit, channel=channel)))
        known = (keys.idempotency(key[0]), key[1]) if key else None
        expected = self.reference.accept(task_id, endpoint, known, limit, channel)
        if isinstance(answer, Exception):
            refusal = {QueueFull: "FULL", KeyReused: "OTHER BODY"}.get(type(answer))
            assert refusal == expected, answer
        else:
            assert answer.task_id == expected
        self.check()
        return expected

    def foreign(self) -> None:
        """A message of another Celery client, which has no record, and a tag that is not its id."""
        task_id = f"f{self.count()}"
        stored = json.loads(task_message(task_id, None))
        stored["properties"]["delivery_tag"] = f"tag-of-{task_id}"
        self.messages[task_id] = json.dumps(stored)
        self.redis.lpush(keys.QUEUE, self.messages[task_id])
        self.reference.queue.append(Message(task_id, is_foreign=True))
        self.check()

    def cancel(self, task_id: str) -> None:
        assert self.store.cancel(task_id, ttl=RESULT_TTL) == self.reference.cancel(task_id)
        self.check()

    # ------------------------------------------------------------------ predicting processes

    def take(
        self,
        process: Process,
        *,
        limit: int,
        sharers: int = 0,
        status: str = SUCCESS,
        ends: Sequence[Completion] | None = None,
    ) -> None:
        """Store how all that it has ended, and take the next."""
        ends = self.ends(process, process.held, status) if ends is None else ends
        reference, claims = self.reference, process.claims
        reference.complete(ends)
        expected, cancelled = reference.take(process.owner, claims.epoch, limit, sharers)
        taken = claims.take(limit=limit, sharers=sharers, completions=ends)
        ids = [one.task_id for one in taken.claimed]
        assert [(one.task_id, one.deliveries, one.since) for one in taken.claimed] == expected
        assert [task.task_id for task in taken.cancelled] == cancelled
        assert taken.waiting == len(reference.queue)
        assert len(ids) == 1 or all(one.deliveries == 1 for one in taken.claimed), "a suspect is alone"
        assert [one.message for one in taken.claimed] == [self.messages[task_id] for task_id in ids]
        for other in self.processes:
            is_living = other is not process and reference.now - other.renewed_at <= CLAIM_LEASE
            assert not is_living or not other.leased & set(ids), "a living owner's claim is nobody else's"
        process.held, process.leased = set(ids), set(ids)
        process.renewed_at = reference.now
        self.check()

    def ends(self, process: Process, task_ids: Iterable[str], status: str) -> list[Completion]:
        """Ends of these tasks, each with another result."""
        return [Completion(task_id, status, json.dumps({"run": self.count()})) for task_id in sorted(task_ids)]

    def complete(self, ends: Sequence[Completion]) -> None:
        self.store.complete_many(ends, ttl=RESULT_TTL)
        self.reference.complete(ends)
        self.check()

    def requeue(self, process: Process, task_ids: Collection[str], *, epochs_ago: int = 0) -> None:
        """Give these back, of what it has claimed in this epoch or an earlier one."""
        process.claims.epoch -= epochs_ago
        claims = self.reference.claims
        own = [one for one in task_ids if one in claims and claims[one][1:] == (process.owner, process.claims.epoch)]
        lettered = process.claims.requeue(task_ids)
        process.claims.epoch += epochs_ago
        assert sorted(one.task_id for one in lettered) == sorted(self.reference.requeue(own, ()))
        if not epochs_ago:
            process.held.difference_update(task_ids)
            process.leased.difference_update(task_ids)
        self.check()

    def requeue_all(self, process: Process, died: Collection[str] = ()) -> None:
        """Give all back."""
        lettered = process.claims.requeue_all(died)
        own = self.reference.owned(process.owner)
        assert sorted(one.task_id for one in lettered) == sorted(self.reference.requeue(own, died))
        self.reference.leases.pop(process.owner, None)
        process.forget()
        self.check()

    def reject(self, process: Process, task_id: str) -> None:
        process.claims.reject(task_id, "no task of ours")
        claim = self.reference.claims.get(task_id)
        if claim and claim.owner == process.owner:
            self.reference.dead_letter(claim.message, "no task of ours", "ForeignMessage")
        process.held.discard(task_id)
        process.leased.discard(task_id)
        self.check()

    def replace(self, process: Process) -> Process:
        """A process dies, and another one is started for it; what it had is still its own."""
        new = self.new_process(process.host)
        self.processes[self.processes.index(process)] = new
        return new

    # ------------------------------------------------------------------ reports, and their readers

    def report(self, process: Process, task_id: str, progress: str, before: int, outputs: list[str]) -> None:
        """A process reports on a task, which may be another's by now."""
        limits = (MAX_OUTPUTS, MAX_OUTPUT_BYTES)
        self.report_script(args=[process.claims.holder, *limits, task_id, progress, before, len(outputs), *outputs])
        self.reference.report(process.owner, process.claims.epoch, task_id, progress, before, outputs)
        self.check()

    def follow(self, task_id: str, restarts: int, seen: int) -> None:
        """A reader looks at a task, and has so many outputs of the delivery after so many restarts."""
        answer = self.follow_script(args=[task_id, restarts, seen, MAX_OUTPUTS_READ, MAX_BYTES_READ])
        expected = self.reference.follow(task_id, restarts, seen)
        if expected is None:
            assert answer is None
        else:
            task, (first, outputs, is_last) = self.reference.tasks[task_id], expected
            assert (answer[0], int(answer[1]), answer[3]) == (task.status, task.restarts, task.progress)
            assert (answer[6], answer[8], answer[9]) == (task.outputs or 0, first, outputs)
            assert (answer[7] is not None) == (task.status == PENDING), "the rank of a task that waits"
            assert bool(answer[10]) == is_last, "the record comes with the last outputs"
        self.check()

    # ------------------------------------------------------------------ workers

    def renew(self, host: str) -> None:
        """The worker of a host renews the leases of its living processes."""
        living = [process for process in self.processes if process.host == host]
        running = [task_id for process in living for task_id in sorted(process.held)]
        epochs = {process.owner: process.claims.epoch for process in living}
        revoked = {task_id for task_id, task in self.reference.tasks.items() if task.status == "REVOKED"}
        renewed = self.hosts[host].renew(epochs, running)
        lettered = self.reference.renew(host, epochs)
        assert sorted(one.task_id for one in renewed.dead_lettered) == sorted(lettered)
        assert renewed.cancelled == [task_id for task_id in running if task_id in revoked]
        for process in living:
            if self.reference.now - process.renewed_at > CLAIM_LEASE:
                process.leased.clear()
            process.renewed_at = self.reference.now
        self.check()

    # ------------------------------------------------------------------ senders

    def send(self, sender: Sender, free: int) -> None:
        """A sender takes callbacks that are due."""
        busy = Counter(callback.endpoint for callback in sender.in_flight)
        taken, next_in = self.box.take(free=free, per_endpoint=PER_ENDPOINT, busy=busy)
        reference = self.reference
        reference.end_leases()
        due = {
            endpoint: {task_id: at for task_id, at in reference.waiting(endpoint).items() if at <= reference.now}
            for endpoint in ENDPOINTS
        }
        assert len(taken) <= free
        for endpoint, of_endpoint in due.items():
            ids = [callback.task_id for callback in taken if callback.endpoint == endpoint]
            assert len(set(ids)) == len(ids)
            assert set(ids) <= set(of_endpoint), "what is taken is due"
            room = min(PER_ENDPOINT, max(1, free // PER_ENDPOINT))
            room = min(room, ROOM_WHEN_DOWN) if endpoint in reference.down else room
            assert len(ids) + busy[endpoint] <= room or not ids, "no endpoint gets more than its places"
            assert ids or not of_endpoint or busy[endpoint] or len(taken) == free, "each endpoint gets a place"
            left = [at for task_id, at in of_endpoint.items() if task_id not in ids]
            assert not left or not ids or max(of_endpoint[task_id] for task_id in ids) <= min(left), "the oldest first"
        for callback in taken:
            reference.lease(callback.task_id)
            self._check_callback(callback)
        firsts = [min(waiting.values()) for endpoint in ENDPOINTS if (waiting := reference.waiting(endpoint))]
        later = [at for at in firsts if at > reference.now]
        assert next_in == (min(later) - reference.now if later else None)
        sender.in_flight += taken
        self.check()

    def _check_callback(self, callback: Callback) -> None:
        task, sending = self.reference.tasks[callback.task_id], self.reference.sending(callback.task_id)
        assert callback.uri == f"http://{callback.endpoint.partition(':')[0]}/{callback.task_id}"
        assert (callback.status, callback.result, callback.replays) == (task.status, task.result, task.replays)
        assert callback.attempts == sending.attempts
        assert sending.first is not None
        assert callback.since_first == self.reference.now - sending.first

    def settle(self, sender: Sender, attempts: Sequence[tuple[Callback, AttemptResult]]) -> None:
        """Attempts have ended; what was delivered, the receiver has."""
        for callback, result in attempts:
            if result.delivered:
                sent = self.received.setdefault((callback.task_id, callback.replays), set())
                sent.add(callback.result)
                assert len(sent) == 1, f"{callback.task_id}: the receiver gets the first end alone"
        self.box.settle(attempts)
        self.reference.settle(attempts)
        settled = [callback for callback, _ in attempts]
        sender.in_flight = [callback for callback in sender.in_flight if callback not in settled]
        self.check()

    def renew_callbacks(self, sender: Sender) -> None:
        self.box.renew(sender.in_flight)
        self.reference.renew_callbacks(callback.task_id for callback in sender.in_flight)
        self.check()

    def release(self, sender: Sender) -> None:
        self.box.release(sender.in_flight)
        self.reference.release(callback.task_id for callback in sender.in_flight)
        sender.in_flight = []
        self.check()

    def hear(self) -> None:
        """An idle sender is woken, if there is reason."""
        if self.reference.wakeup:
            assert self.box.wait(1)
            self.reference.wakeup = False
            self.check()

    # ------------------------------------------------------------------ the operator, and time

    def resend(self, task_ids: Sequence[str]) -> None:
        sent, _ = self.box.resend(task_ids)
        assert sent == [task_id for task_id in task_ids if self.reference.resend(task_id)]
        self.check()

    def replay(self, task_id: str) -> None:
        """Run a dead letter again; the callback of its old end is not sent any more."""
        replays = self.reference.letters[task_id].replays if task_id in self.reference.letters else 0
        is_there = self.letters.replay(task_id)
        assert is_there == self.reference.replay(task_id)
        if is_there:
            self.promised.discard((task_id, replays))
        self.check()

    def discard(self, task_id: str) -> None:
        assert self.letters.discard(task_id) == (self.reference.letters.pop(task_id, None) is not None)
        self.redis.zrem("model:expiry", keys.dead_letter(task_id))
        self.check()

    def prune(self) -> None:
        assert self.box.prune() == 0
        self.reference.prune()
        self.check()

    def wait(self, seconds: float) -> None:
        before = dict(self.reference.tasks)
        self.reference.wait(seconds)
        for process in self.processes:
            process.renewed_at = min(process.renewed_at, self.reference.now)
        set_clock(self.redis, self.reference.now)
        for task_id in before.keys() - self.reference.tasks.keys():
            sending = before[task_id].callback
            if sending and sending.state == "FAILED":
                self.promised.discard((task_id, before[task_id].replays))
        self.check()

    # ------------------------------------------------------------------ the end

    def drain(self) -> None:
        """All processes and senders are gone; a last worker and a last sender do what is left."""
        for process in list(self.processes):
            self.replace(process)
        for host in HOSTS:
            self.renew(host)
        self._run_all(self.processes[0])
        assert not self.redis.exists(keys.QUEUE, keys.UNACKED, keys.OWNERS, keys.WAITING), "all is drained"
        self._send_all(Sender())
        listed = {(one.task_id, self.reference.tasks[one.task_id].replays) for one in self.box.undelivered()}
        assert self.promised <= listed | self.received.keys(), "every callback is delivered or listed"
        letters = self.letters.read()
        assert {one.task_id: one.reason for one in letters} == {
            task_id: letter.reason for task_id, letter in self.reference.letters.items()
        }

    def _run_all(self, process: Process) -> None:
        for _ in range(len(self.messages) + 1):
            self.take(process, limit=8)
            if not process.held:
                return
        raise AssertionError("the queue is never empty")

    def _send_all(self, sender: Sender) -> None:
        self.wait(16)
        for _ in range(10 * len(self.messages) + 10):
            self.send(sender, PER_ENDPOINT * PER_ENDPOINT)
            if sender.in_flight:
                delivered = AttemptResult(status=200, delivered=True)
                self.settle(sender, [(callback, delivered) for callback in sender.in_flight])
                continue
            later = [at for endpoint in ENDPOINTS for at in self.reference.waiting(endpoint).values()]
            if not later:
                return
            self.wait(max(0, min(later) - self.reference.now))
        raise AssertionError("callbacks are sent for ever")
