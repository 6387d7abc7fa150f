"""app/callbacks.py: which addresses are taken, what is posted there, and what a receiver can do about it: nothing."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests
from redis import Redis
from waiting import until

from app import callbacks, keys
from app.addresses import check_uri
from app.callbacks import CallbackSender, body
from app.records import TaskRecord, TaskRecords

GOOD = [
    "http://receiver.example/stash",
    "https://receiver.example",
    "HTTP://receiver.example/",
    "http://receiver.example:9000/a?b=c&d=%20#e",
    "http://user:password@receiver.example/",
    "http://127.0.0.1:9000/stash",
    "http://[::1]:9000/stash",
    "http://receiver",
]
BAD = [
    "",
    "stash",
    "/stash",
    "receiver.example/stash",
    "ftp://receiver.example/",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "redis://redis:6379",
    "http:",
    "http://",
    "http:///stash",
    "http://:9000/",
    "http://receiver.example:0/",
    "http://receiver.example:99999/",
    "http://receiver.example:port/",
    "http://[::1/",
    "http://[nonsense]/",
    "http://receiver example/",
    " http://receiver.example/",
    "http://receiver.example/\n",
    "http://receiver.example/\r\nX-Header: injected",
    "http://receiver.example/\x00",
    "http://receiver.exämple/",
    "http://a..b/",
    f"http://{'a' * 64}.example/",
]


@pytest.mark.parametrize("uri", GOOD)
def test_a_good_address_is_taken_as_it_is(uri: str) -> None:
    assert check_uri(uri) == uri


@pytest.mark.parametrize("uri", BAD)
def test_a_bad_address_is_refused_and_quoted(uri: str) -> None:
    with pytest.raises(ValueError, match="callback_uri must be an http or https address, not ") as refused:
        check_uri(uri)
    assert repr(uri) in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "kind"), [(1, "int"), (True, "bool"), ([], "list"), ({"a": 1}, "dict"), (1.5, "float")]
)
def test_an_address_that_is_no_text_is_refused_by_its_type(uri: Any, kind: str) -> None:
    with pytest.raises(ValueError, match=f"^callback_uri must be text, not {kind}$"):
        check_uri(uri)


@pytest.mark.parametrize("uri", GOOD)
def test_what_is_taken_can_be_sent_to(uri: str) -> None:
    prepared = requests.Request("POST", uri).prepare()
    assert prepared.url is not None
    assert prepared.url.lower().startswith("http")


def test_the_body_is_what_predict_returned() -> None:
    assert body("the-id", TaskRecord(status="SUCCESS", result={"a123": "Iris-setosa"})) == {"a123": "Iris-setosa"}


@pytest.mark.parametrize("status", ["FAILURE", "REVOKED"])
def test_the_body_of_a_failure_names_the_task(status: str) -> None:
    assert body("the-id", TaskRecord(status=status, result={"args": ["no"]})) == {
        "status": status,
        "result": {"args": ["no"]},
        "task_id": "the-id",
    }


@pytest.fixture
def records(broker: Redis) -> TaskRecords:
    return TaskRecords(broker)


@pytest.fixture
def sending(broker: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Starts a sender; at the end of the test it is stopped, and has finished what was on its way."""
    monkeypatch.setattr(callbacks, "POLL", 0.1)
    stopping = threading.Event()
    threads: list[threading.Thread] = []

    def start(*, timeout: float = 10) -> None:
        sender = CallbackSender(broker, timeout=timeout)
        threads.append(threading.Thread(target=sender.run, args=(stopping,)))
        threads[-1].start()

    yield start
    stopping.set()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def end(records: TaskRecords, uri: str | None, *, task_id: str = "the-id", status: str = "SUCCESS") -> None:
    """A task that was accepted and has ended."""
    records.accept(task_id, "message", callback_uri=uri, queue_limit=1000)
    result = {"a123": "naïve ☃"} if status == "SUCCESS" else {"args": ["no"]}
    records.end(task_id, status, result, lifetime=60)


def test_a_result_is_posted_as_json_with_the_id_of_its_task(
    sending: Callable[..., None], records: TaskRecords, receiver: Any
) -> None:
    sending()
    end(records, receiver.uri("/stash?a=b"))
    until(lambda: receiver.received, what="the callback")
    (path, headers, content), *more = receiver.received
    assert (path, content, more) == ("/stash?a=b", {"a123": "naïve ☃"}, [])
    assert headers["Content-Type"] == "application/json"
    assert headers["webhook-id"] == "the-id"
    assert headers["User-Agent"] == "denzel"


def test_a_failure_is_posted_too(sending: Callable[..., None], records: TaskRecords, receiver: Any) -> None:
    sending()
    end(records, receiver.uri("/stash"), status="FAILURE")
    until(lambda: receiver.received, what="the callback")
    assert [content for _, _, content in receiver.received] == [
        {"status": "FAILURE", "result": {"args": ["no"]}, "task_id": "the-id"}
    ]


def test_callbacks_that_were_queued_before_the_start_are_sent(
    sending: Callable[..., None], records: TaskRecords, receiver: Any, redis: Redis
) -> None:
    for number in range(20):
        end(records, receiver.uri(f"/{number}"), task_id=f"task-{number}")
    sending()
    until(lambda: len(receiver.received) == 20, what="20 callbacks")
    assert sorted(receiver.paths) == sorted(f"/{number}" for number in range(20))
    assert redis.exists(keys.CALLBACKS) == 0


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_delivered(
    sending: Callable[..., None],
    records: TaskRecords,
    receiver: Any,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    caplog.set_level(logging.INFO)
    sending()
    end(records, receiver.uri(f"/status/{status}"))
    until(lambda: caplog.messages, what="a line in the log")
    assert caplog.messages == [f"callback of task the-id delivered to {receiver.uri(f'/status/{status}')}"]


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 410, 429, 500, 503])
def test_any_other_answer_is_reported_and_not_followed(
    sending: Callable[..., None],
    records: TaskRecords,
    receiver: Any,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    sending()
    uri = receiver.uri(f"/status/{status}")
    end(records, uri)
    end_is_logged = until(lambda: caplog.messages, what="a line in the log")
    assert end_is_logged == [f"callback of task the-id not delivered: {uri} answered {status}"]
    end(records, receiver.uri("/next"), task_id="the-next")
    until(lambda: "/next" in receiver.paths, what="the next callback")
    assert receiver.paths == [f"/status/{status}", "/next"]


def test_a_receiver_that_hangs_holds_up_nobody_else(
    sending: Callable[..., None], records: TaskRecords, receiver: Any
) -> None:
    sending(timeout=20)
    for number in range(10):
        end(records, receiver.uri(f"/hang/{number}"), task_id=f"hanging-{number}")
    until(lambda: len(receiver.received) == 10, what="the hanging ones")
    started = time.monotonic()
    end(records, receiver.uri("/stash"), task_id="the-next")
    until(lambda: "/stash" in receiver.paths, what="the next callback")
    assert time.monotonic() - started < 5
    receiver.released.set()


def test_a_receiver_that_hangs_is_given_up_after_the_timeout(
    sending: Callable[..., None], records: TaskRecords, receiver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sending(timeout=0.2)
    end(records, receiver.uri("/hang"))
    until(lambda: caplog.messages, what="a line in the log")
    assert "callback of task the-id not delivered: " in caplog.text
    assert "Read timed out" in caplog.text


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:1/", "http://does-not-exist.invalid/", f"http://{'a' * 64}.example/"]
)
def test_a_receiver_that_cannot_be_reached_is_reported(
    sending: Callable[..., None], records: TaskRecords, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    """The last one cannot even be looked up; a record written by an older version may hold it."""
    sending(timeout=5)
    end(records, uri)
    until(lambda: caplog.messages, within=15, what="a line in the log")
    assert caplog.messages[0].startswith("callback of task the-id not delivered: ")


def test_a_record_that_has_expired_sends_nothing(
    sending: Callable[..., None], records: TaskRecords, receiver: Any, redis: Redis
) -> None:
    end(records, receiver.uri("/gone"), task_id="gone")
    redis.delete(keys.task("gone"))
    end(records, receiver.uri("/stash"))
    sending()
    until(lambda: receiver.received, what="the callback that is left")
    assert receiver.paths == ["/stash"]


def test_the_sender_goes_on_after_redis_cut_it_off(
    sending: Callable[..., None],
    records: TaskRecords,
    receiver: Any,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sending()
    end(records, receiver.uri("/one"), task_id="one")
    until(lambda: receiver.paths == ["/one"], what="the first callback")
    for _ in range(3):
        redis.client_kill_filter(_type="normal", skipme=True)
    until(lambda: accepted(lambda: end(records, receiver.uri("/two"), task_id="two")), what="Redis")
    until(lambda: "/two" in receiver.paths, what="the second callback")


def accepted(attempt: Callable[[], None]) -> bool:
    from redis import RedisError

    try:
        attempt()
    except RedisError:
        return False
    return True


def test_what_is_on_its_way_is_finished_when_told_to_stop(
    broker: Redis,
    records: TaskRecords,
    receiver: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(callbacks, "POLL", 0.1)
    caplog.set_level(logging.INFO)
    stopping = threading.Event()
    thread = threading.Thread(target=CallbackSender(broker, timeout=20).run, args=(stopping,))
    thread.start()
    end(records, receiver.uri("/hang"))
    until(lambda: receiver.received, what="the callback to be on its way")
    stopping.set()
    receiver.released.set()
    thread.join(20)
    assert not thread.is_alive()
    assert caplog.messages == [f"callback of task the-id delivered to {receiver.uri('/hang')}"]


def test_many_more_hanging_receivers_than_places_only_cost_time(
    sending: Callable[..., None], records: TaskRecords, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "IN_FLIGHT", 4)
    sending(timeout=0.3)
    for number in range(12):
        end(records, receiver.uri(f"/hang/{number}"), task_id=f"hanging-{number}")
    end(records, receiver.uri("/stash"))
    until(lambda: "/stash" in receiver.paths, what="the callback behind them")
    assert len(receiver.received) == 13


def test_a_receiver_that_drips_its_answer_is_cut_off(redis: Redis) -> None:
    stopped = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            while not stopped.wait(0.1):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=[listener])
        dripping.start()
        record = TaskRecord(status="SUCCESS", result={}, callback_uri=f"http://127.0.0.1:{listener.getsockname()[1]}/")
        try:
            with pytest.raises(requests.RequestException):
                CallbackSender(redis, timeout=0.3).post("the-id", record)
        finally:
            stopped.set()
            dripping.join()
