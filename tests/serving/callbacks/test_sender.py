"""sender.py: from the end of a task to its endpoint, whatever the endpoint does."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from standardwebhooks import Webhook
from support.callbacks import Scripted, Sending, end, report, running_sender, state
from support.ports import find_free_port
from support.waiting import until
from support.whsec import SECRET

from app.serving.callbacks import retry
from app.serving.callbacks import sender as sender_module
from app.serving.callbacks.signature import read_secret
from app.serving.store import keys
from app.serving.store.outbox import AttemptResult, Callback, Outbox
from app.serving.store.tasks import CallbackReport, TaskStore


def test_a_result_is_posted_as_json_with_the_id_of_its_task(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    sending()
    end(records, receiver.uri())
    until(lambda: state(records) == "DELIVERED", what="the callback")
    ((headers, content),) = receiver.received
    assert json.loads(content) == {"a123": "naïve ☃"}
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"] == "denzel"
    assert headers["webhook-id"] == "the-id"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 10
    assert "webhook-signature" not in headers
    assert report(records) == CallbackReport(state="DELIVERED", attempts=1)


@pytest.mark.parametrize("status", ["FAILURE", "REVOKED"])
def test_a_failure_and_a_cancellation_are_posted_too(
    sending: Sending, records: TaskStore, scripted: Scripted, status: str
) -> None:
    receiver = scripted()
    sending()
    end(records, receiver.uri(), status=status)
    until(lambda: receiver.received, what="the callback")
    assert [request.body for request in receiver.received] == [
        {"status": status, "result": {"args": ["no"]}, "task_id": "the-id"}
    ]


class UnpolledOutbox:
    """An outbox that is read once, and then at each wake-up; `empty` is set when a read found nothing."""

    def __init__(self, box: Outbox) -> None:
        self._box = box
        self.empty, self.closed = threading.Event(), threading.Event()
        self.before_empty: Callable[[], object] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._box, name)

    def wait(self, _: float) -> bool:
        while not self.closed.is_set():
            if self._box.wait(0.1):
                return True
        return False

    def take(self, **options: Any) -> Any:
        taken, next_in = self._box.take(**options)
        if not taken:
            self.before_empty()
            self.empty.set()
        return taken, next_in


def test_a_new_callback_is_sent_at_once_and_its_end_is_settled_at_once(
    box: Outbox, records: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "POLL_INTERVAL", 120)
    unpolled, sent, released = UnpolledOutbox(box), threading.Event(), threading.Event()

    async def deliver(_: Callback) -> AttemptResult:
        sent.set()
        await asyncio.to_thread(released.wait, 30)
        return AttemptResult(status=200, delivered=True)

    with running_sender(unpolled, deliver):
        assert unpolled.empty.wait(30)
        end(records, "http://a.example/")
        assert sent.wait(30)
        unpolled.empty.clear()
        assert unpolled.empty.wait(30)
        released.set()
        until(lambda: state(records) == "DELIVERED", what="the record")
        unpolled.closed.set()


def test_an_attempt_that_ends_during_the_last_read_is_settled_at_once(
    box: Outbox, records: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "POLL_INTERVAL", 120)
    unpolled, sent, reading, ended = UnpolledOutbox(box), threading.Event(), threading.Event(), threading.Event()

    async def deliver(_: Callback) -> AttemptResult:
        sent.set()
        await asyncio.to_thread(reading.wait, 30)
        ended.set()
        return AttemptResult(status=200, delivered=True)

    def end_attempt() -> None:
        if sent.is_set():
            reading.set()
            ended.wait(30)

    unpolled.before_empty = end_attempt
    with running_sender(unpolled, deliver):
        assert unpolled.empty.wait(30)
        end(records, "http://a.example/")
        until(lambda: state(records) == "DELIVERED", within=10, what="the record")
        unpolled.closed.set()


def test_results_in_flight_have_a_bounded_size_together(
    box: Outbox, records: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last that is taken may exceed the bound; then nothing is taken until some are delivered."""
    monkeypatch.setattr(sender_module, "POLL_INTERVAL", 0.05)
    monkeypatch.setattr(sender_module, "BYTES_IN_FLIGHT", 5_000_000)
    sizes: Counter[str] = Counter()
    at_once: list[int] = []

    async def deliver(one: Callback) -> AttemptResult:
        sizes[one.task_id] = len(one.result)
        at_once.append(sizes.total())
        await asyncio.sleep(0.05)
        del sizes[one.task_id]
        return AttemptResult(status=200, delivered=True)

    for number in range(12):
        records.enqueue(f"task-{number}", "", callback_uri=f"http://host-{number}.example/", queue_limit=100)
        records.complete(f"task-{number}", "SUCCESS", {"a": "x" * 3_000_000}, ttl=60)
    with running_sender(box, deliver):
        until(lambda: not box.undelivered(), what="all callbacks")
    assert len(at_once) == 12
    assert max(at_once) < 5_000_000 + 3_100_000


@pytest.mark.usefixtures("quick")
def test_a_transient_status_is_retried_with_the_same_id_and_a_valid_signature(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted(503, 503)
    sending(key=read_secret(SECRET))
    end(records, receiver.uri())
    until(lambda: state(records) == "DELIVERED", what="the callback")
    assert receiver.ids == ["the-id"] * 3
    assert report(records) == CallbackReport(state="DELIVERED", attempts=3)
    for headers, content in receiver.received:
        assert Webhook(SECRET).verify(content, headers) == {"a123": "naïve ☃"}


@pytest.mark.usefixtures("quick")
def test_a_redirect_is_final_and_not_followed(
    sending: Sending, records: TaskStore, scripted: Scripted, box: Outbox
) -> None:
    elsewhere = scripted()
    receiver = scripted((307, {"Location": elsewhere.uri()}))
    sending()
    end(records, receiver.uri())
    until(lambda: state(records) == "FAILED", what="the end")
    assert report(records) == CallbackReport(state="FAILED", attempts=1, last_error="answered 307")
    assert [one.last_status for one in box.undelivered()] == [307]
    end(records, receiver.uri(), task_id="the-next")
    until(lambda: state(records, "the-next") == "DELIVERED", what="the next callback")
    assert receiver.ids == ["the-id", "the-next"]
    assert elsewhere.received == []


@pytest.mark.usefixtures("quick")
def test_a_retry_after_is_honoured(sending: Sending, records: TaskStore, scripted: Scripted) -> None:
    receiver = scripted((503, {"Retry-After": "1"}))
    sending()
    end(records, receiver.uri())
    until(lambda: report(records).attempts, what="the first attempt")
    began = time.monotonic()
    until(lambda: state(records) == "DELIVERED", what="the callback")
    assert 0.8 <= time.monotonic() - began < 3


@pytest.mark.usefixtures("quick")
def test_a_callback_fails_when_its_retry_time_is_over(
    sending: Sending, records: TaskStore, box: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    sending(retry_for=1)
    began = time.monotonic()
    end(records, f"http://127.0.0.1:{find_free_port()}/")
    until(lambda: state(records) == "FAILED", what="the end")
    assert time.monotonic() - began > 0.8
    (given_up,) = box.undelivered()
    assert given_up.attempts >= 2
    assert given_up.last_error is not None
    assert "Connection refused" in given_up.last_error
    assert "callback of task the-id not delivered to http://" in caplog.text


def test_many_callbacks_are_settled_in_few_steps(
    sending: Sending,
    records: TaskStore,
    scripted: Scripted,
    box: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They have been due since before the sender started."""
    caplog.set_level(logging.INFO)
    receiver = scripted()
    settled: list[int] = []
    settle = box.settle
    monkeypatch.setattr(box, "settle", lambda results: (settled.append(len(results)), settle(results)))
    monkeypatch.setattr(sender_module, "BATCH_INTERVAL", 0.05)
    names = [f"task-{number}" for number in range(100)]
    for name in names:
        end(records, receiver.uri(), task_id=name)
    sending()
    until(lambda: {state(records, name) for name in names} == {"DELIVERED"}, what="the callbacks to be delivered")
    assert sorted(receiver.ids) == sorted(names)
    steps = [count for count in settled if count]
    assert sum(steps) == 100
    assert len(steps) < 50
    until(lambda: sum(line.count(" to http") for line in caplog.messages) == 100, what="all to be in the log")
    assert max(line.count(" to http") for line in caplog.messages) <= sender_module.CALLBACKS_PER_LINE


def test_a_password_in_the_uri_is_not_in_the_log(
    sending: Sending, records: TaskStore, scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    receiver = scripted()
    sending()
    end(records, receiver.uri().replace("127.0.0.1", "user:secret@127.0.0.1"))
    until(lambda: caplog.messages, what="a line in the log")
    assert caplog.messages == [f"callbacks delivered: the-id to {receiver.uri()}"]
    assert receiver.received[0].headers["Authorization"].startswith("Basic ")


def test_an_endpoint_that_was_down_gets_everything_once_and_at_once(
    sending: Sending, records: TaskStore, scripted: Scripted, box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 3600)  # what follows is by the endpoint's return alone
    port = find_free_port()
    uri = f"http://127.0.0.1:{port}/stash"
    sending()
    for number in range(100):
        end(records, uri, task_id=f"task-{number}")
    until(lambda: all(one.attempts for one in box.undelivered()), what="an attempt for each")
    receiver = scripted(port=port)
    began = time.monotonic()
    end(records, uri, task_id="probe")
    until(lambda: not box.undelivered(), what="all callbacks")
    assert time.monotonic() - began < 5
    assert Counter(receiver.ids) == Counter(["probe", *(f"task-{number}" for number in range(100))])


@pytest.mark.usefixtures("quick")
def test_an_endpoint_that_comes_back_is_found_by_the_retries(
    sending: Sending, records: TaskStore, scripted: Scripted, box: Outbox
) -> None:
    port = find_free_port()
    sending()
    for number in range(20):
        end(records, f"http://127.0.0.1:{port}/stash", task_id=f"task-{number}")
    until(lambda: all(one.attempts for one in box.undelivered()), what="an attempt for each")
    receiver = scripted(port=port)
    until(lambda: not box.undelivered(), within=10, what="all callbacks")
    assert Counter(receiver.ids) == Counter(f"task-{number}" for number in range(20))


def test_fifty_endpoints_that_hang_do_not_delay_the_next(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    hanging = [scripted() for _ in range(50)]
    for one in hanging:
        one.hanging = True
    quiet = scripted()
    sending(timeout=20)
    for number, one in enumerate(hanging):
        for part in range(3):
            end(records, one.uri(), task_id=f"hanging-{number}-{part}")
    until(lambda: all(len(one.received) == 3 for one in hanging), what="the hanging ones")
    began = time.monotonic()
    end(records, quiet.uri())
    until(lambda: state(records) == "DELIVERED", what="the next callback")
    assert time.monotonic() - began < 2
    for one in hanging:
        one.released.set()


def test_hundreds_for_one_hanging_endpoint_do_not_delay_another(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    crowded, quiet = scripted(), scripted()
    crowded.hanging = True
    for number in range(500):
        end(records, crowded.uri(), task_id=f"crowd-{number}")
    sending(timeout=20)
    until(lambda: len(crowded.received) == sender_module.PER_ENDPOINT, what="the hanging ones")
    began = time.monotonic()
    end(records, quiet.uri())
    until(lambda: state(records) == "DELIVERED", what="the next callback")
    assert time.monotonic() - began < 2
    assert len(crowded.received) == sender_module.PER_ENDPOINT
    crowded.hanging = False
    crowded.released.set()


@pytest.mark.usefixtures("quick")
def test_an_endpoint_that_hangs_gets_the_whole_timeout_and_is_tried_again(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    receiver.hanging = True
    sending(timeout=0.3)
    end(records, receiver.uri())
    until(lambda: report(records).attempts, what="the first attempt")
    assert report(records).last_error == "no answer within 0.3 s"
    receiver.hanging = False
    until(lambda: state(records) == "DELIVERED", what="the callback")


def test_callbacks_in_flight_are_finished_when_the_sender_stops(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    receiver.hanging = True
    stop = sending(timeout=20)
    end(records, receiver.uri())
    until(lambda: receiver.received, what="the callback to be in flight")
    stopping = threading.Thread(target=stop)
    stopping.start()
    receiver.released.set()
    stopping.join(20)
    assert state(records) == "DELIVERED"


def test_callbacks_that_are_not_finished_when_the_sender_stops_are_released(
    sending: Sending, records: TaskStore, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "SHUTDOWN_GRACE", 0.2)
    receiver = scripted()
    receiver.hanging = True
    stop = sending(timeout=20)
    end(records, receiver.uri())
    until(lambda: receiver.received, what="the callback to be in flight")
    began = time.monotonic()
    stop()
    assert time.monotonic() - began < 3
    assert report(records) == CallbackReport(state="PENDING", attempts=0)
    receiver.hanging = False
    sending()
    until(lambda: state(records) == "DELIVERED", within=5, what="the next sender's attempt")
    assert receiver.ids == ["the-id", "the-id"]
    receiver.released.set()


def test_a_sender_renews_the_lease_of_a_long_delivery(
    sending: Sending, records: TaskStore, scripted: Scripted, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "LEASE_RENEW_INTERVAL", 0.1)
    receiver = scripted()
    receiver.hanging = True
    sending(timeout=20)
    sending(timeout=20)
    end(records, receiver.uri())
    until(lambda: receiver.received, what="the callback to be in flight")
    first = redis.zscore(keys.SENDING, "the-id")
    until(lambda: redis.zscore(keys.SENDING, "the-id") > first + 0.5, what="the lease to be renewed, more than once")  # type: ignore[operator]
    receiver.released.set()
    until(lambda: state(records) == "DELIVERED", what="the callback")
    assert receiver.ids == ["the-id"]


def test_two_senders_send_each_callback_once(
    sending: Sending, records: TaskStore, scripted: Scripted, box: Outbox
) -> None:
    receiver = scripted()
    sending()
    sending()
    for number in range(300):
        end(records, receiver.uri(), task_id=f"task-{number}")
    until(lambda: not box.undelivered(), what="all callbacks")
    assert Counter(receiver.ids) == Counter(f"task-{number}" for number in range(300))
