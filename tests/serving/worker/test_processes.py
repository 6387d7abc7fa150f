"""processes.py: predicting processes that die, hang, take long and stop, for real; with short times."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from multiprocessing import Process
from pathlib import Path
from typing import Any

import pytest
from doubles.flaky_redis import FlakyRedis
from redis import Redis
from support.records import failed, record_of
from support.waiting import until
from support.worker import LIMITS, process_of

from app.serving.heartbeat import Heartbeat
from app.serving.store import keys
from app.serving.store.claims import Claims, DeadLettered, HostClaims
from app.serving.store.connection import connect
from app.serving.store.tasks import FAILURE, PENDING, REVOKED, SUCCESS, TaskStore
from app.serving.store.workers import WorkerRegistry
from app.serving.worker import processes as supervision
from app.serving.worker.batching.place import Place
from app.serving.worker.batching.scoreboard import Slot
from app.serving.worker.member import Cancelled, Member
from app.serving.worker.processes import Processes
from app.serving.worker.settlements import Settlements

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

Accept = Callable[..., None]
Supervise = Callable[..., Processes]


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {
        "SUPERVISION_INTERVAL": 0.05,
        "CLAIM_RENEW_INTERVAL": 0.1,
        "HEAD_OF_LINE_LIMIT": 0.2,
        "MAX_SILENCE": 1.5,  # a process that waits publishes that each second
        "PAUSE_AFTER_DEATH": 0.3,
        "START_INTERVAL": 0.05,
    }.items():
        monkeypatch.setattr(supervision, name, seconds)


@pytest.fixture
def supervise(redis: Redis, redis_url: str) -> Iterator[Supervise]:
    """Starts processes: supervise(process_of(...), number=2)."""
    started: list[Processes] = []
    client = connect(redis_url)

    def start(
        run: Callable[..., None],
        *,
        number: int = 2,
        time_limit: float | None = None,
        heartbeat: int | None = None,
        settle_at: str = redis_url,
    ) -> Processes:
        settling = connect(settle_at)
        claims_of = partial(Claims, settling, LIMITS)
        started.append(
            Processes(
                number,
                run,
                worker="worker@iris",
                claims=HostClaims(client, LIMITS),
                settlements=Settlements(claims_of, TaskStore(settling), ttl=60, time_limit=time_limit),
                registry=WorkerRegistry(client),
                heartbeat=Heartbeat(heartbeat),
                max_tasks=64,
                time_limit=time_limit,
            )
        )
        started[-1].start()
        return started[-1]

    yield start
    for processes in started:
        for pid in processes.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        processes.kill()
        assert processes.join(20)
    client.close()
    gc.unfreeze()


@pytest.fixture
def workshop(tmp_path: Path, redis_url: str) -> Callable[..., Callable[..., None]]:
    """The run function of processes whose tasks do what their input says, and note that they ran, in files."""

    def predict(model: str, one: dict[str, Any]) -> dict[str, Any]:
        runs = tmp_path / f"ran-{one['id']}"
        with runs.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if one.get("dies", 0) >= len(runs.read_text().split()):
            os.kill(os.getpid(), signal.SIGKILL)
        if "until" in one:
            until((tmp_path / one["until"]).exists, within=60, what="the end of a task")
        time.sleep(one.get("sleep", 0))
        return {"pid": os.getpid()}

    def predict_batch(model: str, many: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [predict(model, one) for one in many]

    def make(*, batches: bool = False, **options: Any) -> Callable[..., None]:
        function = {"predict_batch": predict_batch} if batches else {"predict": predict}
        return process_of(redis_url, quick=True, **function, **options)

    return make


@pytest.fixture
def order(records: TaskStore, accept: Accept) -> Callable[..., None]:
    """Accepts tasks with these orders, and their ids in them."""
    return lambda **orders: accept(**{task_id: {"id": task_id, **one} for task_id, one in orders.items()})


def runs(folder: Path, task_id: str) -> list[int]:
    path = folder / f"ran-{task_id}"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def until_ended(records: TaskStore, ids: str, *, within: float = 30) -> list[str]:
    until(lambda: all(record_of(records, task_id).is_finished for task_id in ids), within=within, what=f"{ids} to end")
    return [record_of(records, task_id).status for task_id in ids]


def deliveries(redis: Redis, ids: str) -> list[str | None]:
    return [redis.hget(keys.task(task_id), "deliveries") for task_id in ids]


def events_of(processes: Processes) -> list[Cancelled | DeadLettered]:
    return [processes.events.get_nowait() for _ in range(processes.events.qsize())]


def nothing_is_claimed(redis: Redis) -> bool:
    return not redis.exists(keys.QUEUE, keys.UNACKED, keys.OWNERS)


# ------------------------------------------------------------------ deaths


def test_a_death_is_counted_for_the_task_that_ran_and_for_none_before_or_behind(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis, tmp_path: Path
) -> None:
    order(a={}, b={"dies": 1}, c={})
    processes = supervise(workshop(), number=1)
    assert until_ended(records, "abc") == [SUCCESS] * 3
    assert deliveries(redis, "abc") == ["1", "2", "1"]
    assert (len(runs(tmp_path, "b")), len(runs(tmp_path, "c"))) == (2, 1)
    assert len(set(runs(tmp_path, "b"))) == 2
    until(lambda: processes.ended >= 3, what="the count")
    assert nothing_is_claimed(redis)


def test_all_tasks_of_a_batch_that_died_are_suspects_and_then_run_alone(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis, tmp_path: Path
) -> None:
    order(a={}, b={"dies": 9}, c={})
    processes = supervise(workshop(batches=True), number=1)
    assert until_ended(records, "abc") == [SUCCESS, FAILURE, SUCCESS]
    assert deliveries(redis, "abc") == ["2", "3", "2"]
    assert record_of(records, "b").result == failed("WorkerDied", "the worker died while running this task, 3 times")
    until(lambda: processes.events.qsize(), what="the event")
    assert events_of(processes) == [DeadLettered("b", "the worker died while running this task, 3 times")]
    assert nothing_is_claimed(redis)


def test_a_task_that_ends_its_process_with_exit_code_0_is_counted_too(
    supervise: Supervise, accept: Accept, records: TaskStore, redis: Redis, redis_url: str
) -> None:
    accept(a={})
    supervise(process_of(redis_url, predict=lambda model, one: os._exit(0)), number=1)
    assert (until_ended(records, "a"), deliveries(redis, "a")) == ([FAILURE], ["3"])


def test_a_task_cannot_fork_processes(supervise: Supervise, accept: Accept, records: TaskStore, redis_url: str) -> None:
    """They would inherit the handler of SIGTERM, by which multiprocessing ends its own."""
    accept(a={})
    supervise(process_of(redis_url, predict=lambda model, one: Process(target=print).start()), number=1)
    assert until_ended(records, "a") == [FAILURE]
    assert record_of(records, "a").result == failed(
        "AssertionError", "daemonic processes are not allowed to have children"
    )


def test_an_idle_process_that_is_killed_gives_on_the_place_and_is_replaced(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis
) -> None:
    processes = supervise(workshop(), number=2)
    for task_id in "abc":
        before = until(lambda: len(processes.pids) == 2 and processes.pids, what="both processes")
        order(**{task_id: {}})
        assert until_ended(records, task_id) == [SUCCESS]
        # The one that has the place keeps it.
        os.kill(record_of(records, task_id).result["pid"], signal.SIGKILL)
        until(lambda before=before: set(processes.pids) != set(before), what="another process")
    order(d={})
    assert until_ended(records, "d") == [SUCCESS]
    assert deliveries(redis, "abcd") == ["1"] * 4


def test_a_process_that_is_killed_at_the_queue_holds_up_no_other_until_it_is_replaced(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "START_INTERVAL", 60)
    supervise(workshop(), number=2)
    order(a={})
    assert until_ended(records, "a") == [SUCCESS]
    os.kill(record_of(records, "a").result["pid"], signal.SIGKILL)
    order(b={})
    assert until_ended(records, "b", within=10) == [SUCCESS]


def test_a_death_that_cannot_be_settled_yet_is_counted_for_its_suspect_alone(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis, flaky: FlakyRedis, tmp_path: Path
) -> None:
    """Meanwhile the claims of the dead one are renewed: else, all would have died."""
    order(a={"dies": 1}, b={})
    flaky.go_away()
    processes = supervise(workshop(), number=1, settle_at=flaky.url)
    (died,) = until(lambda: runs(tmp_path, "a"), what="the death")
    until(lambda: processes.pids not in ([], [died]), what="the next process")
    tries = flaky.refused
    until(lambda: flaky.refused > tries + 10, what="some rounds")
    assert sorted(redis.hkeys(keys.OWNERS)) == ["a", "b"]
    flaky.come_back()
    assert until_ended(records, "ab") == [SUCCESS] * 2
    assert deliveries(redis, "ab") == ["2", "1"]


def test_a_process_that_has_run_its_tasks_is_replaced_at_once(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(supervision, "START_INTERVAL", 60)
    monkeypatch.setattr(supervision, "PAUSE_AFTER_DEATH", 60)
    order(**{task_id: {} for task_id in "abcdef"})
    processes = supervise(workshop(max_tasks=2), number=1)
    assert until_ended(records, "abcdef") == [SUCCESS] * 6
    pids = [runs(tmp_path, task_id)[0] for task_id in "abcdef"]
    assert (pids[0::2], len(set(pids))) == (pids[1::2], 3)
    assert processes.ended == 6


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        (lambda: os._exit(3), "load_model ended its process with exit code 3"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "load_model ended its process with signal 15 (SIGTERM)"),
    ],
)
def test_a_death_while_loading_is_reported_and_followed_by_a_pause(
    act: Callable[[], None], cause: str, supervise: Supervise, redis: Redis, tmp_path: Path, workshop: Any
) -> None:
    works = workshop()

    def load(owner: str, slot: Slot, place: Place) -> None:
        with (tmp_path / "loads").open("a") as file:
            file.write(f"{time.monotonic()}\n")
        until(lambda: bool(redis_of_child.smembers(keys.WORKERS)), what="the registration as loading")
        if not (tmp_path / "mended").exists():
            act()
        works(owner, slot, place)

    redis_of_child = connect(f"redis://{_address(redis)}")
    supervise(load, number=1)
    registry = WorkerRegistry(redis)
    until(lambda: [report.cause for report in registry.read()] == [cause], what="the cause")
    until(lambda: len((tmp_path / "loads").read_text().split()) >= 3, what="other tries")
    assert [(report.state.value, report.cause) for report in registry.read()] == [("ERROR", cause)]
    times = [float(line) for line in (tmp_path / "loads").read_text().split()]
    assert all(later - before >= 0.3 for before, later in pairwise(times))
    (tmp_path / "mended").touch()
    until(lambda: [report.state.value for report in registry.read()] == ["UP"], what="the worker to be up")


def _address(redis: Redis) -> str:
    options = redis.connection_pool.connection_kwargs
    return f":{options['password']}@{options['host']}:{options['port']}/0"


# ------------------------------------------------------------------ tasks that take long


def test_a_task_over_its_time_limit_fails_and_the_others_of_its_batch_run(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis, tmp_path: Path
) -> None:
    order(a={}, b={"sleep": 60}, c={})
    supervise(workshop(), number=1, time_limit=0.5)
    assert until_ended(records, "abc") == [SUCCESS, FAILURE, SUCCESS]
    too_long = failed("TimeLimitExceeded", "the task took longer than TASK_TIME_LIMIT, 0.5 s")
    assert record_of(records, "b").result == too_long
    assert (len(runs(tmp_path, "b")), deliveries(redis, "ac")) == (1, ["1", "1"])
    until(lambda: nothing_is_claimed(redis), what="the claims to be released")


def test_of_a_batch_that_takes_too_long_only_the_slow_one_fails_in_the_end(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis
) -> None:
    order(a={}, b={"sleep": 60}, c={})
    supervise(workshop(batches=True), number=1, time_limit=0.5)
    assert until_ended(records, "abc") == [SUCCESS, FAILURE, SUCCESS]
    assert "TASK_TIME_LIMIT" in record_of(records, "b").result["args"][0]
    assert deliveries(redis, "ac") == ["2", "2"]


@pytest.mark.parametrize("position", [1, 2])
def test_a_task_that_follows_one_that_took_too_long_is_not_blamed(position: int, slot: Slot) -> None:
    """The process may have gone on before the signal came."""
    slot.begin(["slow", "next"])
    slot.start(0)
    member = Member(name="one", slot=slot, place=Place(-1))
    member.overdue = slot.view().suspects
    assert member.suspects() == ["slow"]
    slot.start(position)
    assert member.suspects() == []


def test_what_waits_behind_a_long_task_runs_elsewhere(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis, tmp_path: Path
) -> None:
    order(a={"until": "released"}, b={}, c={})
    processes = supervise(workshop(), number=2)
    assert until_ended(records, "bc", within=10) == [SUCCESS] * 2
    assert [running.task_id for running in processes.running()] == ["a"]
    (tmp_path / "released").touch()
    assert until_ended(records, "a") == [SUCCESS]
    assert (deliveries(redis, "abc"), len(runs(tmp_path, "b"))) == (["1"] * 3, 1)
    assert nothing_is_claimed(redis)


def test_a_claim_is_renewed_for_as_long_as_its_task_runs(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis, tmp_path: Path
) -> None:
    order(a={"until": "released"})
    supervise(workshop(), number=1)
    until(lambda: runs(tmp_path, "a"), what="the task to run")
    ((owner, claimed),) = redis.zrange(keys.LEASES, 0, -1, withscores=True)
    for _ in range(3):
        until(lambda claimed=claimed: redis.zscore(keys.LEASES, owner) > claimed, within=5, what="a renewal")
        claimed = redis.zscore(keys.LEASES, owner)
    (tmp_path / "released").touch()
    assert until_ended(records, "a") == [SUCCESS]
    assert len(runs(tmp_path, "a")) == 1


# ------------------------------------------------------------------ cancels


@pytest.mark.parametrize("batches", [False, True])
def test_a_running_task_that_is_cancelled_ends_with_its_process_and_no_other_task_does(
    batches: bool, supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis, tmp_path: Path
) -> None:
    order(a={}, b={"sleep": 60}, c={})
    processes = supervise(workshop(batches=batches), number=1)
    until(lambda: runs(tmp_path, "b"), what="the task to run")
    killed = processes.pids
    records.cancel("b", ttl=60)
    assert until_ended(records, "abc") == [SUCCESS, REVOKED, SUCCESS]
    assert processes.pids != killed
    assert deliveries(redis, "ac") == ["1", "1"]
    until(lambda: processes.events.qsize(), what="the event")
    assert events_of(processes) == [Cancelled("b", terminated=True)]
    assert nothing_is_claimed(redis)


def test_a_task_that_is_cancelled_before_its_turn_in_a_batch_never_runs(
    supervise: Supervise,
    workshop: Any,
    order: Any,
    records: TaskStore,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervision, "HEAD_OF_LINE_LIMIT", 60)
    order(a={"until": "released"}, b={}, c={})
    processes = supervise(workshop(), number=1)
    until(lambda: runs(tmp_path, "a"), what="the first to run")
    before = processes.pids
    records.cancel("b", ttl=60)
    until(lambda: processes.events.qsize(), what="the worker to notice")
    (tmp_path / "released").touch()
    assert until_ended(records, "abc") == [SUCCESS, REVOKED, SUCCESS]
    assert events_of(processes) == [Cancelled("b", terminated=False)]
    assert (runs(tmp_path, "b"), processes.pids) == ([], before)
    assert nothing_is_claimed(redis)


# ------------------------------------------------------------------ processes that are held up


def test_a_process_that_is_held_up_with_the_place_gives_it_on(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, tmp_path: Path
) -> None:
    """It took its task for a quick one."""
    order(a={"until": "released"})
    supervise(workshop(), number=2)
    until(lambda: runs(tmp_path, "a"), what="the task to run")
    order(b={})
    assert until_ended(records, "b", within=10) == [SUCCESS]
    (tmp_path / "released").touch()
    assert until_ended(records, "a") == [SUCCESS]


def test_a_process_that_is_stopped_at_the_queue_does_not_hold_up_the_others_and_is_killed_in_the_end(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "MAX_SILENT_ROUNDS", 10_000)
    processes = supervise(workshop(), number=2)
    order(a={})
    assert until_ended(records, "a") == [SUCCESS]
    stopped: int = record_of(records, "a").result["pid"]
    until(lambda: redis.info("clients")["blocked_clients"], what="it to wait at the queue")
    os.kill(stopped, signal.SIGSTOP)
    order(b={})
    # It may be claimed in the name of the stopped one, as that has asked for it.
    until(lambda: not redis.llen(keys.QUEUE), what="a process to take it")
    order(c={})
    assert until_ended(records, "c", within=20) == [SUCCESS]
    monkeypatch.setattr(supervision, "MAX_SILENT_ROUNDS", 3)
    assert until_ended(records, "b", within=20) == [SUCCESS]
    until(lambda: stopped not in processes.pids and len(processes.pids) == 2, what="another in its place")
    assert deliveries(redis, "bc") == ["1", "1"]


def test_a_process_that_was_stopped_for_a_while_goes_on(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, tmp_path: Path, redis: Redis
) -> None:
    order(a={"until": "released"})
    processes = supervise(workshop(), number=2)
    (stopped,) = until(lambda: runs(tmp_path, "a"), what="the task to run")
    os.kill(stopped, signal.SIGSTOP)
    (tmp_path / "released").touch()
    order(**{task_id: {} for task_id in "bcdefg"})
    assert until_ended(records, "bcdefg") == [SUCCESS] * 6
    os.kill(stopped, signal.SIGCONT)
    assert until_ended(records, "a") == [SUCCESS]
    assert stopped in processes.pids
    assert deliveries(redis, "abcdefg") == ["1"] * 7


def test_a_stopped_process_that_has_just_got_the_place_gives_it_on(supervise: Supervise, tmp_path: Path) -> None:
    """Nothing on the scoreboard shows that yet."""

    def run(owner: str, slot: Slot, place: Place) -> None:
        slot.stand_by()
        place.acquire()
        (tmp_path / f"{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGSTOP)

    processes = supervise(run, number=2)
    until(lambda: all((tmp_path / f"{pid}").exists() for pid in processes.pids), what="the second to get it, too")


# ------------------------------------------------------------------ the end


def test_a_stop_lets_each_process_end_its_batch_and_leaves_the_rest(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis, tmp_path: Path
) -> None:
    order(a={"until": "released"})
    processes = supervise(workshop(), number=3)
    until(lambda: runs(tmp_path, "a"), what="the task to run")
    processes.stop()
    until(lambda: processes.pids == runs(tmp_path, "a"), what="the idle ones to end")
    order(b={})
    assert not processes.join(0.2)
    (tmp_path / "released").touch()
    assert processes.join(20)
    assert (processes.pids, record_of(records, "a").status, record_of(records, "b").status) == ([], SUCCESS, PENDING)
    assert not redis.exists(keys.OWNERS)


def test_a_stop_does_not_wait_for_a_process_that_loads(supervise: Supervise) -> None:
    def load(owner: str, slot: Slot, place: Place) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)

    processes = supervise(load)
    began = time.monotonic()
    processes.stop()
    assert processes.join(20)
    assert time.monotonic() - began < 5


def test_to_kill_all_requeues_what_they_had_and_counts_no_delivery(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis, tmp_path: Path
) -> None:
    order(a={"sleep": 60}, b={"sleep": 60})
    processes = supervise(workshop(deliveries=1), number=2)
    until(lambda: runs(tmp_path, "a") and runs(tmp_path, "b"), what="both to run")
    processes.kill()
    assert (processes.pids, deliveries(redis, "ab"), redis.llen(keys.QUEUE)) == ([], ["0", "0"], 2)
    assert [record_of(records, task_id).position for task_id in "ab"] == [1, 2]
    assert not redis.exists(keys.OWNERS)


def test_a_worker_that_starts_gets_back_what_its_host_had_before(
    supervise: Supervise, workshop: Any, order: Any, records: TaskStore, redis: Redis, claims: Claims
) -> None:
    order(a={}, b={})
    assert len(claims.take(limit=2).claimed) == 2
    supervise(workshop(), number=1)
    assert until_ended(records, "ab") == [SUCCESS] * 2
    # Any of them may have been the cause.
    assert deliveries(redis, "ab") == ["2", "2"]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Callable[[], bool], int]]:
    """A function that is true when there were beats since the last call, and the end to write them to."""
    monkeypatch.setattr(supervision, "BEAT_INTERVAL", 0.05)
    source, output = os.pipe()
    os.set_blocking(source, False)

    def has_beaten() -> bool:
        with suppress(BlockingIOError):
            return len(os.read(source, 1 << 16)) > 0
        return False

    yield has_beaten, output
    os.close(source)


def test_the_heart_beats_while_all_processes_are_busy(
    supervise: Supervise, workshop: Any, order: Any, tmp_path: Path, pipe: tuple[Callable[[], bool], int]
) -> None:
    has_beaten, output = pipe
    order(a={"until": "released"})
    supervise(workshop(), number=1, heartbeat=output)
    until(lambda: runs(tmp_path, "a"), what="the task to run")
    for _ in range(20):
        until(has_beaten, within=5, what="a beat")
    (tmp_path / "released").touch()


def test_the_heart_beats_while_redis_cannot_be_looked_up_and_not_when_supervision_hangs(
    supervise: Supervise, workshop: Any, pipe: tuple[Callable[[], bool], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    has_beaten, output = pipe
    supervise(workshop(), number=1, heartbeat=output)
    hangs, released = threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        hangs.set()
        released.wait(30)

    with monkeypatch.context() as patch:
        patch.setattr(Processes, "_renew", hang)
        assert hangs.wait(5)
    for _ in range(5):
        until(has_beaten, within=5, what="a beat")
    monkeypatch.setattr(supervision, "STEP_TIMEOUT", 0)
    time.sleep(0.2)
    has_beaten()
    time.sleep(0.2)
    assert not has_beaten()
    monkeypatch.setattr(supervision, "STEP_TIMEOUT", 60)
    released.set()
    until(has_beaten, within=5, what="a beat")
