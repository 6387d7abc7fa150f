"""Rules that drive the steps at random. A fault needs several steps in a row, and single rules rarely make them: so
most rules are a short story, with what varies drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings, target
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from model.reference import ENDPOINTS
from model.steps import HOSTS, PER_ENDPOINT, Process, Sender, Steps
from redis import Redis

from app.serving.store import keys
from app.serving.store.connection import DirectConnection
from app.serving.store.outbox import AttemptResult, Callback
from app.serving.store.tasks import FAILURE, SUCCESS

# Few, as each run goes on from its first examples and its best one: variety comes from many seeds.
EXAMPLES_A_SEED = 20

# Places of a sender that is idle: as many as each endpoint may have.
ALL = PER_ENDPOINT * PER_ENDPOINT

DELIVERED = AttemptResult(status=200, delivered=True)
GIVEN_UP = AttemptResult(status=404, error="answered 404")

slots = st.integers(0, len(HOSTS) * 2 - 1)
hosts = st.sampled_from(HOSTS)
endpoints = st.sampled_from([None, *ENDPOINTS, ENDPOINTS[0]])
limits = st.sampled_from([1, 2, 3, 8])
senders = st.integers(0, 1)
pauses = st.sampled_from([0.25, 2, 5, 9, 11, 15, 21, 60, 300, 700, 4000])


def failure(retry_in: float, *, down: bool = True) -> AttemptResult:
    return AttemptResult(status=None if down else 500, error="refused", retry_in=retry_in, endpoint_down=down)


results = st.sampled_from([DELIVERED, GIVEN_UP, failure(5), failure(60), failure(600), failure(5, down=False)])


class StoreMachine(RuleBasedStateMachine):
    """Random stories about one deployment."""

    def __init__(self, redis: Redis, connection: DirectConnection) -> None:
        super().__init__()
        self.steps = Steps(redis, connection)
        self.told: set[str] = set()

    def teardown(self) -> None:
        try:
            self._drain()
        finally:
            self.steps.close()

    def _drain(self) -> None:
        if self.steps.is_sound:
            self.steps.drain()
            # What is hard to reach: stories told in one run, and ends of tasks of each kind.
            kinds = {task.status for task in self.steps.reference.tasks.values()}
            target(len(self.told) + len(kinds) + min(3, len(self.steps.reference.letters)), label="variety")

    # ------------------------------------------------------------------ what stories begin with

    def process(self, slot: int) -> Process:
        return self.steps.processes[slot]

    def busy(self, slot: int, limit: int, endpoint: str | None = None) -> Process:
        """A process that has claimed something."""
        process = self.process(slot)
        if not self.steps.reference.queue:
            for _ in range(limit):
                self.steps.accept(endpoint)
        self.steps.take(process, limit=limit)
        return process

    def ended(self, count: int, endpoint: str) -> list[str]:
        """Tasks that have ended now, with a callback and an Idempotency-Key each."""
        ids = [self.steps.accept(endpoint, key=(f"of {self.steps.count()}", "x")) for _ in range(count)]
        process = self.process(0)
        for _ in range(len(self.steps.messages) + 1):
            self.steps.take(process, limit=8)
            if not process.held:
                break
        return ids

    def sending(self, sender: Sender, count: int, endpoint: str) -> list[Callback]:
        """Callbacks in flight, of which some are new."""
        self.ended(count, endpoint)
        self.steps.send(sender, ALL)
        return list(sender.in_flight)

    def idle_sender(self, which: int) -> Sender:
        """A sender that has just been started, and has delivered what was due."""
        sender = self.steps.senders[which] = Sender()
        for _ in range(len(self.steps.messages) + 1):
            self.steps.send(sender, ALL)
            if not sender.in_flight:
                break
            self.steps.settle(sender, [(one, DELIVERED) for one in sender.in_flight])
        return sender

    def some(self, data: st.DataObject, of: Sequence[str]) -> str:
        return data.draw(st.sampled_from(list(of)))

    # ------------------------------------------------------------------ the api

    @rule(endpoint=endpoints, count=st.integers(1, 4), channel=st.sampled_from(["", *map(keys.completions, "ab")]))
    def accept(self, endpoint: str | None, count: int, channel: str) -> None:
        for _ in range(count):
            self.steps.accept(endpoint, channel=channel)

    @rule(data=st.data(), endpoint=endpoints)
    def accept_again_after_a_lost_answer(self, data: st.DataObject, endpoint: str | None) -> None:
        task_id = self.steps.accept(endpoint)
        step = data.draw(st.sampled_from(["nothing", "take", "complete", "cancel"]))
        if step in ("take", "complete"):
            self.steps.take(self.process(0), limit=8)
        if step == "complete":
            self.steps.take(self.process(0), limit=8)
        if step == "cancel":
            self.steps.cancel(task_id)
        self.steps.accept(endpoint, task_id=task_id)

    @rule(key=st.sampled_from("ab"), body=st.sampled_from("xy"), endpoint=endpoints, pause=st.sampled_from([0, 700]))
    def accept_with_a_key(self, key: str, body: str, endpoint: str | None, pause: float) -> None:
        self.steps.accept(endpoint, key=(key, body))
        self.ended(0, ENDPOINTS[0])
        self.steps.wait(pause)
        self.steps.accept(endpoint, key=(key, body))

    @rule(limit=st.integers(0, 3))
    def refuse_at_the_limit(self, limit: int) -> None:
        self.steps.accept(limit=len(self.steps.reference.queue) - 1 + min(limit, 1))

    @precondition(lambda self: not self.foreign_is_left())
    @rule()
    def message_of_another_client(self) -> None:
        self.steps.foreign()

    def foreign_is_left(self) -> bool:
        """Their order among themselves is not defined, so there is one at a time."""
        reference = self.steps.reference
        messages = [*reference.queue, *(claim.message for claim in reference.claims.values())]
        return any(message.is_foreign for message in messages)

    @rule(data=st.data(), where=st.sampled_from(["any", "ended", "waiting", "running"]), slot=slots)
    def cancel(self, data: st.DataObject, where: str, slot: int) -> None:
        held = sorted(self.busy(slot, 2, ENDPOINTS[0]).held) if where == "running" else []
        waiting = [self.steps.accept(ENDPOINTS[0])] if where == "waiting" else []
        ended = self.ended(1, ENDPOINTS[0]) if where == "ended" else []
        found = held or waiting or ended or list(self.steps.reference.tasks)
        if not found:
            return
        self.steps.cancel(self.some(data, found))
        self.steps.renew(self.process(slot).host)
        self.steps.take(self.process(slot), limit=2)

    # ------------------------------------------------------------------ predicting processes and workers

    @rule(slot=slots, limit=limits, sharers=st.sampled_from([0, 2, 3]), status=st.sampled_from([SUCCESS, FAILURE]))
    def take(self, slot: int, limit: int, sharers: int, status: str) -> None:
        for _ in range(sharers + 1):
            self.steps.accept()
        self.steps.take(self.process(slot), limit=limit, sharers=sharers, status=status)

    @rule(slot=slots, limit=limits, reached=st.sampled_from(["late", "in time", "not"]))
    def answer_of_take_is_lost(self, slot: int, limit: int, reached: str) -> None:
        """Claim without an answer to the process; Redis may read that after all that the process did then."""
        self.told.add("lost answer")
        process = self.busy(slot, limit, ENDPOINTS[0])
        self.steps.accept()
        ends = self.steps.ends(process, process.held, SUCCESS)
        if reached == "in time":
            self.steps.take(process, limit=limit, ends=ends)
        process.forget()
        process.claims.epoch += 1
        self.steps.requeue_all(process)
        self.steps.complete(ends)
        if reached == "late":
            process.claims.epoch -= 1
            self.steps.take(process, limit=limit, ends=ends)
            process.forget()
            process.claims.epoch += 1
        self.steps.renew(process.host)
        self.steps.take(process, limit=limit)

    @rule(data=st.data(), slot=slots, limit=limits, twice=st.booleans(), status=st.sampled_from([SUCCESS, FAILURE]))
    def finish(self, data: st.DataObject, slot: int, limit: int, twice: bool, status: str) -> None:
        """A process stores some ends before it is through with all; a lost answer makes it store them twice."""
        process = self.busy(slot, limit, ENDPOINTS[0])
        if not process.held:
            return
        ends = self.steps.ends(process, [self.some(data, sorted(process.held))], status)
        process.held.discard(ends[0].task_id)
        self.steps.complete(ends)
        if twice:
            self.steps.complete(ends)

    def some_of(self, data: st.DataObject, held: Collection[str]) -> list[str]:
        return data.draw(st.lists(st.sampled_from(sorted(held)), unique=True)) if held else []

    @rule(data=st.data(), slot=slots, limit=limits, again=st.booleans())
    def requeue(self, data: st.DataObject, slot: int, limit: int, again: bool) -> None:
        """A batch is cut off. The process may have taken the same tasks anew when the worker does so again."""
        process = self.busy(slot, limit)
        cut_off = sorted(process.held) if again else self.some_of(data, process.held)
        self.steps.requeue(process, cut_off)
        if again:
            process.claims.epoch += 1
            self.steps.take(process, limit=limit)
            self.steps.requeue(process, cut_off, epochs_ago=1)

    @rule(data=st.data(), slot=slots, limit=limits)
    def stop(self, data: st.DataObject, slot: int, limit: int) -> None:
        """As it is to stop, or has died of some."""
        process = self.busy(slot, limit)
        self.steps.requeue_all(process, self.some_of(data, process.held))

    @precondition(lambda self: not self.foreign_is_left())
    @rule(slot=slots, others=st.booleans())
    def reject(self, slot: int, others: bool) -> None:
        """A message that only another worker could run; one whose claim is another's is left alone."""
        if others and (held := self.busy(slot, 2).held):
            self.steps.reject(self.process(slot - 1), min(held))
        self.ended(0, ENDPOINTS[0])
        self.steps.foreign()
        process = self.process(slot)
        self.steps.take(process, limit=1)
        self.steps.reject(process, min(process.held))

    @rule(slot=slots, limit=limits, times=st.integers(1, 4), buried=st.booleans(), replay=st.booleans())
    def poison(self, slot: int, limit: int, times: int, buried: bool, replay: bool) -> None:
        """Processes die one after the other, until what they run is a dead letter."""
        self.told.add("poison")
        for _ in range(times):
            process = self.busy(slot, limit, ENDPOINTS[0])
            new = self.steps.replace(process)
            if buried:
                self.steps.requeue_all(process, sorted(process.held)[:1])
            else:
                self.steps.renew(new.host)
        if replay:
            for task_id in list(self.steps.reference.letters)[:1]:
                self.steps.replay(task_id)

    @rule(host=hosts, limit=limits, renews=st.booleans(), pause=pauses)
    def host_dies(self, host: str, limit: int, renews: bool, pause: float) -> None:
        """All of its processes at once; another life of it, or another host, requeues what they had."""
        for slot in range(len(self.steps.processes)):
            if self.process(slot).host == host:
                self.busy(slot, limit)
                self.steps.replace(self.process(slot))
        self.steps.wait(pause)
        self.steps.renew(host if renews else HOSTS[1 - HOSTS.index(host)])

    @rule(slot=slots, limit=limits, rounds=st.integers(1, 4), then=st.sampled_from(["take", "requeue", "complete"]))
    def cut_off(self, slot: int, limit: int, rounds: int, then: str) -> None:
        """A host cannot renew while another one does; its process goes on with what is another's by then."""
        self.told.add("cut off")
        process = self.busy(slot, limit, ENDPOINTS[0])
        other = self.process(slot - 1)
        assert other.host != process.host
        for _ in range(rounds):
            self.steps.renew(other.host)
            self.steps.wait(9)
        self.steps.renew(other.host)
        self.steps.take(other, limit=8)
        if then == "take":
            self.steps.take(process, limit=limit)
        elif then == "requeue":
            self.steps.requeue(process, sorted(process.held))
        elif process.held:
            self.steps.complete(self.steps.ends(process, process.held, FAILURE))
        self.steps.take(other, limit=limit)

    @rule(slot=slots, limit=limits, pause=pauses)
    def outage(self, slot: int, limit: int, pause: float) -> None:
        """Nobody could renew; the first that does so again leaves the others time to."""
        self.told.add("outage")
        self.busy(slot, limit)
        for host in HOSTS:
            self.steps.renew(host)
        self.steps.wait(pause)
        other = self.process(slot - 1)
        self.steps.renew(other.host)
        self.steps.wait(5)
        self.steps.renew(other.host)
        self.steps.renew(self.process(slot).host)

    @rule(host=hosts)
    def renew(self, host: str) -> None:
        self.steps.renew(host)

    @rule(slot=slots, seconds=st.sampled_from([5, 60, 3600]), which=senders)
    def clock_is_set_back(self, slot: int, seconds: float, which: int) -> None:
        """Leases that end too late by then are void, or begin anew."""
        self.told.add("set back")
        self.busy(slot, 2, ENDPOINTS[0])
        self.sending(self.steps.senders[which], 1, ENDPOINTS[1])
        other = self.process(slot - 1)
        self.steps.renew(other.host)
        self.steps.wait(-seconds)
        for _ in range(4):
            self.steps.renew(other.host)
            self.steps.wait(6)
        self.steps.send(self.steps.senders[1 - which], ALL)

    @rule(seconds=pauses)
    def wait(self, seconds: float) -> None:
        self.steps.wait(seconds)

    # ------------------------------------------------------------------ reports, and their readers

    @rule(
        data=st.data(),
        slot=slots,
        followed=st.sampled_from(["not", "waiting", "running"]),
        whose=st.sampled_from(["own", "own", "an earlier epoch's", "another's"]),
        then=st.sampled_from(["end", "cancel", "requeue", "die", "nothing"]),
        pause=st.sampled_from([0, 0, 700]),
    )
    def report(self, data: st.DataObject, slot: int, followed: str, whose: str, then: str, pause: float) -> None:
        """A running task reports, some of it twice or with a gap; readers look before, meanwhile and behind its end."""
        self.told.add(f"report, {then}")
        task_id = self.waiting(followed == "waiting")
        process = self.process(slot)
        self.steps.take(process, limit=1)
        if followed == "running":
            self.steps.follow(task_id, 0, 0)
        for _ in range(data.draw(st.integers(1, 3))):
            self._report(data, process, task_id, whose)
        if then in ("requeue", "die"):
            self.steps.requeue(process, {task_id: then == "die"})
            self._look(data, task_id)
            self.steps.take(process, limit=1)
            self._report(data, process, task_id, "own")
        if then == "cancel":
            self.steps.cancel(task_id)
            self._report(data, process, task_id, "own")
        if then == "end":
            self.steps.take(process, limit=1)
        self._look(data, task_id)
        self.steps.wait(pause)
        self._look(data, task_id)

    def waiting(self, is_followed: bool) -> str:
        """A task that is next, with a callback: its record outlives its output."""
        self.ended(0, ENDPOINTS[0])
        task_id = self.steps.accept(ENDPOINTS[0])
        if is_followed:
            self.steps.follow(task_id, 0, 0)
        return task_id

    def _report(self, data: st.DataObject, process: Process, task_id: str, whose: str) -> None:
        task = self.steps.reference.tasks[task_id]
        before = max(0, (task.outputs or 0) + data.draw(st.sampled_from([0, 0, 0, -1, 2])))
        outputs = data.draw(st.lists(st.sampled_from(["1", "22", "x" * 7, "x" * 11]), max_size=3))
        progress = data.draw(st.sampled_from(["", '{"fraction": 0.5}', "{}"]))
        if whose == "another's":
            process = self.process(self.steps.processes.index(process) - 1)
        process.claims.epoch += whose == "an earlier epoch's"
        self.steps.report(process, task_id, progress, before, outputs)
        process.claims.epoch -= whose == "an earlier epoch's"

    def _look(self, data: st.DataObject, task_id: str) -> None:
        task = self.steps.reference.tasks.get(task_id)
        restarts = task.restarts if task else 0
        self.steps.follow(task_id, max(0, restarts - data.draw(st.integers(0, 1))), data.draw(st.integers(0, 9)))

    # ------------------------------------------------------------------ callbacks

    @rule(which=senders, free=st.sampled_from([1, 2, ALL]))
    def send(self, which: int, free: int) -> None:
        for endpoint in ENDPOINTS:
            self.ended(1, endpoint)
        self.steps.hear()
        self.steps.send(self.steps.senders[which], free)

    @rule(data=st.data(), which=senders, count=st.integers(0, 4), endpoint=st.sampled_from(ENDPOINTS))
    def settle(self, data: st.DataObject, which: int, count: int, endpoint: str) -> None:
        """Attempts end; a lost answer makes the sender report them twice."""
        sender = self.steps.senders[which]
        attempts = [(one, data.draw(results)) for one in self.sending(sender, count, endpoint)]
        self.steps.settle(sender, attempts)
        if data.draw(st.booleans()):
            self.steps.wait(data.draw(st.sampled_from([0, 5, 60])))
            self.steps.send(self.steps.senders[1 - which], ALL)
            self.steps.settle(sender, attempts)

    @rule(data=st.data(), which=senders, then=st.sampled_from(["settle", "renew", "release", "nothing"]))
    def lose_the_lease(self, data: st.DataObject, which: int, then: str) -> None:
        """Another sender takes what this one is still sending."""
        self.told.add("lost lease")
        sender, other = self.steps.senders[which], self.steps.senders[1 - which]
        self.sending(sender, data.draw(st.integers(1, 3)), ENDPOINTS[0])
        self.steps.wait(data.draw(st.sampled_from([5, 15, 16])))
        self.steps.send(other, ALL)
        first, second = (other, sender) if data.draw(st.booleans()) else (sender, other)
        self.steps.settle(first, [(one, data.draw(results)) for one in first.in_flight])
        if then == "settle":
            self.steps.settle(second, [(one, data.draw(results)) for one in second.in_flight])
        elif then == "renew":
            self.steps.renew_callbacks(second)
        elif then == "release":
            self.steps.release(second)
        self.steps.wait(data.draw(st.sampled_from([5, 15])))
        self.steps.send(sender, ALL)

    @rule(which=senders)
    def sender_dies(self, which: int) -> None:
        self.steps.senders[which] = Sender()

    @rule(which=senders, renews=st.integers(0, 3))
    def attempt_takes_long(self, which: int, renews: int) -> None:
        """A living sender renews its leases."""
        sender = self.steps.senders[which]
        self.sending(sender, 1, ENDPOINTS[1])
        for _ in range(renews):
            self.steps.wait(9)
            self.steps.renew_callbacks(sender)
        self.steps.send(self.steps.senders[1 - which], ALL)

    @rule(which=senders, attempts=st.integers(0, 1))
    def sender_stops(self, which: int, attempts: int) -> None:
        sender = self.steps.senders[which]
        for _ in range(attempts):
            self.steps.settle(sender, [(one, failure(5)) for one in self.sending(sender, 1, ENDPOINTS[0])])
            self.steps.wait(5)
        self.sending(sender, 1, ENDPOINTS[0])
        self.steps.release(sender)

    @rule(which=senders, count=st.sampled_from([3, 5]), pause=st.sampled_from([0, 5, 600]))
    def endpoint_comes_back(self, which: int, count: int, pause: float) -> None:
        """Callbacks that wait because of it are due at once; until then, few try."""
        self.told.add("endpoint back")
        sender = self.steps.senders[which]
        attempts = self.sending(sender, count, ENDPOINTS[0])
        self.steps.settle(sender, [(one, failure(5 if one is attempts[0] else 600)) for one in attempts])
        self.steps.wait(pause)
        self.sending(sender, 1, ENDPOINTS[0])
        self.steps.settle(sender, [(one, DELIVERED) for one in sender.in_flight])
        self.steps.send(sender, ALL)

    @rule(which=senders, times=st.integers(1, 6))
    def one_path_fails(self, which: int, times: int) -> None:
        """One callback never gets through, and others to the same endpoint do."""
        self.told.add("lone failure")
        sender = self.steps.senders[which]
        failing = ""
        for _ in range(times):
            self.sending(sender, 1, ENDPOINTS[0])
            failing = failing or next((one.task_id for one in sender.in_flight), "")
            for is_failing in (True, False):
                ending = [one for one in sender.in_flight if (one.task_id == failing) == is_failing]
                self.steps.settle(sender, [(one, failure(5) if is_failing else DELIVERED) for one in ending])
            self.steps.wait(5)

    @rule(data=st.data(), when=st.sampled_from(["running", "waiting", "in flight", "settled", "any"]), which=senders)
    def resend(self, data: st.DataObject, when: str, which: int) -> None:
        self.told.add("resent")
        sender = self.idle_sender(which)
        found = self.ended(1, ENDPOINTS[0]) if when == "waiting" else []
        if when == "running":
            found = sorted(self.busy(0, 2, ENDPOINTS[0]).held)
        if when in ("in flight", "settled"):
            found = [one.task_id for one in self.sending(sender, 2, ENDPOINTS[0])]
        if when == "settled":
            self.steps.settle(sender, [(one, data.draw(results)) for one in sender.in_flight])
            self.steps.wait(data.draw(st.sampled_from([0, 60])))
        found = found or [*self.steps.reference.tasks, "unknown"]
        self.steps.resend([self.some(data, found)])
        self.steps.send(self.steps.senders[1 - which], ALL)
        self.steps.settle(sender, [(one, data.draw(results)) for one in sender.in_flight])

    @rule(pause=st.sampled_from([0, 700, 4000]))
    def prune(self, pause: float) -> None:
        sender = self.steps.senders[0]
        self.steps.settle(sender, [(one, GIVEN_UP) for one in self.sending(sender, 1, ENDPOINTS[0])])
        self.steps.wait(pause)
        self.steps.prune()

    # ------------------------------------------------------------------ dead letters

    def dead_letter(self, endpoint: str | None, key: tuple[str, str] | None) -> str | None:
        """A task that has just killed its last process; None when it was not accepted."""
        self.ended(0, ENDPOINTS[0])
        task_id = self.steps.accept(endpoint, key=key)
        if task_id not in {message.task_id for message in self.steps.reference.queue}:
            return None
        for _ in range(3):
            process = self.process(0)
            self.steps.take(process, limit=1)
            self.steps.report(process, task_id, "{}", 0, ["1"])
            self.steps.replace(process)
            self.steps.requeue_all(process, [task_id])
        return task_id

    @rule(
        endpoint=st.sampled_from(ENDPOINTS),
        keyed=st.booleans(),
        before=st.sampled_from(["nothing", "send", "fail", "deliver", "expire", "resend", "discard"]),
        pause=st.sampled_from([0, 700, 31 * 24 * 3600]),
    )
    def replay(self, endpoint: str, keyed: bool, before: str, pause: float) -> None:
        """A dead letter is run again, whatever became of the callback of its first end; that may end late, too."""
        self.told.add("replayed")
        sender = self.idle_sender(0)
        task_id = self.dead_letter(endpoint, ("c", "x") if keyed else None)
        if task_id is None:
            return
        if before not in ("nothing", "discard"):
            self.steps.send(sender, ALL)
        in_flight = list(sender.in_flight)
        endings: dict[str, Callable[[Callback], Any]] = {"fail": lambda _: failure(60), "deliver": lambda _: DELIVERED}
        if before in endings:
            self.steps.settle(sender, [(one, endings[before](one)) for one in in_flight])
        if before == "discard":
            self.steps.discard(task_id)
        if before == "expire":
            self.steps.settle(sender, [(one, GIVEN_UP) for one in in_flight])
            self.steps.wait(pause)
        self.steps.replay(task_id)
        self.steps.replay(task_id)
        self.ended(0, endpoint)
        if before == "send":
            self.steps.settle(sender, [(one, DELIVERED) for one in in_flight])
        self.steps.send(self.steps.senders[1], PER_ENDPOINT)


def run(redis: Redis, seeds: Iterable[int]) -> None:
    """Tell some stories for each seed, and some more towards variety; raises at the first counterexample."""
    options = settings(
        max_examples=EXAMPLES_A_SEED,
        stateful_step_count=20,
        phases=[Phase.generate, Phase.target],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    connection = DirectConnection(redis)
    try:
        for number in seeds:
            run_state_machine_as_test(seed(number)(lambda: StoreMachine(redis, connection)), settings=options)
    finally:
        connection._connection.disconnect()
