"""messages.py: messages of the api, identical to those that Celery would write."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from app.serving.store import keys
from app.serving.store.messages import (
    MAX_ARGS_REPR,
    REQUEST_ID,
    TASK_NAME,
    TRACEPARENT,
    ForeignMessage,
    QueuedTask,
    decode_input,
    parse,
    task_message,
)

MakeCelery = Callable[[Callable[..., Any]], Any]

VERIFIED = [
    {"callback_uri": "http://receiver.example", "data": {"a123": {"sepal-length": 4.6}}},
    "only text, naïve ☃",
    [1, 2.5, None, True],
    None,
    {"long": "x" * 5000},
]

#: What differs between two publishers, or two messages, and means nothing to the worker. (Of the arguments Celery shows
#: less than a person at the dashboard would like to see.)
OF_ONE_MESSAGE = {"headers": {"origin", "argsrepr", "ignore_result"}, "properties": {"delivery_tag", "reply_to"}}


def predict(json_data: Any) -> dict[str, Any]:
    return {"got": json_data}


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """A stored message with its body opened, without what differs from one to the next."""
    opened = {**message, "body": json.loads(base64.b64decode(message["body"]))}
    for part, names in OF_ONE_MESSAGE.items():
        opened[part] = {name: value for name, value in message[part].items() if name not in names}
    return opened


@pytest.mark.parametrize("verified", VERIFIED[:-1])
def test_the_message_is_what_celery_and_kombu_store(make_celery: MakeCelery, redis: Redis, verified: Any) -> None:
    task_id = str(uuid.uuid4())
    make_celery(predict).apply_async((verified,), task_id=task_id)
    stored: Any = redis.lrange(keys.QUEUE, 0, -1)
    assert len(stored) == 1
    by_celery, by_us = json.loads(stored[0]), json.loads(task_message(task_id, verified))
    assert comparable(by_us) == comparable(by_celery)
    for part, names in OF_ONE_MESSAGE.items():
        assert {(name, type(by_us[part][name])) for name in names} == {
            (name, type(by_celery[part][name])) for name in names
        }


def test_the_delivery_tag_of_a_message_is_the_id_of_its_task() -> None:
    """Kombu keeps taken messages by this tag: whoever has the id finds the message."""
    assert json.loads(task_message("an-id", None))["properties"]["delivery_tag"] == "an-id"


def test_the_tag_and_the_id_stand_before_the_body() -> None:
    """A search for them in the text finds them first, whatever the body holds."""
    text = task_message("an-id", {"id": "another", "delivery_tag": "another"})
    assert text.index('"delivery_tag": "an-id"') < text.index('"id": "an-id"') < text.index('"body": ')
    assert text.count('"id": "') == 1


@pytest.mark.parametrize("verified", VERIFIED)
def test_a_plain_celery_worker_runs_the_message(redis: Redis, redis_url: str, verified: Any) -> None:
    redis.lpush(keys.QUEUE, task_message("the-id", verified))
    taken = []
    with Celery("another", broker=redis_url, set_as_current=False) as stranger:
        stranger.conf.broker_connection_retry_on_startup = True
        with stranger.connection_for_read() as connection, connection.SimpleQueue(keys.QUEUE) as queue:
            message = queue.get(timeout=5)
            taken.append((message.headers["task"], message.headers["id"], message.payload[0], message.payload[1]))
            message.ack()
    assert taken == [(TASK_NAME, "the-id", [verified], {})]
    assert redis.llen(keys.QUEUE) == 0
    assert redis.hlen(keys.UNACKED) == 0


def test_arguments_are_shown_to_the_dashboard_up_to_a_length() -> None:
    headers = json.loads(task_message("an-id", {"long": "x" * 5000}))["headers"]
    assert len(headers["argsrepr"]) == MAX_ARGS_REPR
    assert headers["argsrepr"].startswith("[{'long': 'xxx")
    assert headers["argsrepr"].endswith("...")


def test_a_message_of_ours_is_read() -> None:
    text = task_message("a", {"of": "a"})
    task = parse(text, 1000.5)
    assert task == QueuedTask("a", json.loads(text)["body"], "[{'of': 'a'}]", 1000.5)
    assert decode_input(task) == {"of": "a"}


@pytest.mark.parametrize("call", [{"args": ({"of": "a"},)}, {"kwargs": {"json_data": {"of": "a"}}}])
def test_a_plain_message_of_another_celery_client_is_read(
    make_celery: MakeCelery, redis: Redis, call: dict[str, Any]
) -> None:
    make_celery(predict).apply_async(task_id="a", **call)
    (text,) = redis.lrange(keys.QUEUE, 0, -1)
    task = parse(text, 0)
    assert (task.task_id, decode_input(task)) == ("a", {"of": "a"})


def test_arguments_that_our_task_does_not_take_are_an_error(make_celery: MakeCelery, redis: Redis) -> None:
    make_celery(predict).app.send_task(TASK_NAME, (1, 2), task_id="a")
    (text,) = redis.lrange(keys.QUEUE, 0, -1)
    with pytest.raises(TypeError, match="takes one argument, json_data"):
        decode_input(parse(text, 0))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"countdown": 60}, "eta is "),
        ({"expires": 60}, "expires is "),
        ({"compression": "zlib"}, "its content is application/x-gzip"),
        ({"link": "app.tasks.another"}, "it is part of a group, chain or chord"),
    ],
)
def test_what_only_another_worker_could_run_is_foreign(
    make_celery: MakeCelery, redis: Redis, options: dict[str, Any], reason: str
) -> None:
    task = make_celery(predict)
    if "link" in options:
        options = {"link": task.signature((1,))}
    task.apply_async((1,), task_id="a", **options)
    (text,) = redis.lrange(keys.QUEUE, 0, -1)
    with pytest.raises(ForeignMessage, match=reason):
        parse(text, 0)


def test_an_id_of_another_client_may_not_be_endless(make_celery: MakeCelery, redis: Redis) -> None:
    make_celery(predict).apply_async((1,), task_id="a" * 256)
    (text,) = redis.lrange(keys.QUEUE, 0, -1)
    with pytest.raises(ForeignMessage, match="its id has 256 characters"):
        parse(text, 0)


@pytest.mark.parametrize("task_id", ["naïve", "a\nb", 'a"b', ""])
def test_an_id_that_json_escapes_is_foreign(make_celery: MakeCelery, redis: Redis, task_id: str) -> None:
    """The scripts would read another one, and never release the claim."""
    make_celery(predict).apply_async((1,), task_id="the id")
    (text,) = redis.lrange(keys.QUEUE, 0, -1)
    with pytest.raises(ForeignMessage, match="its id has other characters"):
        parse(text.replace('"the id"', json.dumps(task_id)), 0)


def test_another_task_is_foreign(make_celery: MakeCelery, redis: Redis) -> None:
    make_celery(predict).app.send_task("app.tasks.another", (1,))
    (text,) = redis.lrange(keys.QUEUE, 0, -1)
    with pytest.raises(ForeignMessage, match=r"the task app\.tasks\.another is not known"):
        parse(text, 0)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"headers": {}, "properties": {"delivery_tag": "a"}}'])
def test_what_is_not_a_message_of_a_task_is_foreign(text: str) -> None:
    with pytest.raises(ForeignMessage, match="Celery's message protocol"):
        parse(text, 0)


@pytest.mark.parametrize("body", ["null", "1", "[[1], {}]", "[[1], {}, null]", "[[1], {}, [1]]"])
def test_a_body_in_another_form_is_foreign(make_celery: MakeCelery, redis: Redis, body: str) -> None:
    """Whatever else it raised would end one process after the other."""
    make_celery(predict).apply_async((1,), task_id="a")
    (text,) = redis.lrange(keys.QUEUE, 0, -1)
    message = {**json.loads(text), "body": base64.b64encode(body.encode()).decode()}
    with pytest.raises(ForeignMessage, match="Celery's message protocol"):
        parse(json.dumps(message), 0)


def test_headers_of_the_request_come_with_the_message() -> None:
    headers = {TRACEPARENT: f"00-{32 * 'a'}-{16 * 'b'}-01", REQUEST_ID: "7"}
    task = parse(task_message("a", {"x": 1}, headers), 0, delivery=3)
    assert (task.traceparent, task.request_id, task.delivery) == (headers[TRACEPARENT], "7", 3)
    assert decode_input(task) == {"x": 1}
    task = parse(task_message("a", {"x": 1}), 0)
    assert (task.traceparent, task.request_id, task.delivery) == (None, None, 1)
