"""watch.py: the client of a task's events, with an api that answers as a test asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from doubles.event_stream import ENDED, OUTPUT, STARTED, EventApi
from doubles.receiver import running
from support.ports import find_free_port

from denzel.errors import ServiceNotRunning, TaskUnknown
from denzel.watch import AWAY, GIVE_UP_AFTER, TaskEvent, parse, watch


@pytest.fixture
def serve() -> Iterator[Callable[..., EventApi]]:
    """An api with these answers: serve(503, [STARTED])."""
    with ExitStack() as stack:
        yield lambda *answers: stack.enter_context(running(EventApi(*answers)))


def names(api: EventApi, **options: Any) -> list[str]:
    return [event.name for event in watch(api.address, "an id", sleep=lambda _: None, **options)]


@pytest.mark.parametrize(
    ("lines", "events"),
    [
        (b"retry: 1000\n\n: still there\n\n", []),
        (OUTPUT, [TaskEvent(name="output", data="the", id="2")]),
        (b'event: output\r\ndata:{"a": "\xc3\xa9"}\r\n\r\n', [TaskEvent(name="output", data={"a": "é"})]),
        (b"event: output\ndata: not JSON\n\n", [TaskEvent(name="output", data="not JSON")]),
        (b"event: output\ndata: 1", []),
        (b"data: 1\n\nevent: x\n\n", []),
    ],
    ids=["comments", "event", "other spelling", "not JSON", "broken off", "no event"],
)
def test_events_are_parsed(lines: bytes, events: list[TaskEvent]) -> None:
    assert list(parse(lines.splitlines(keepends=True))) == events


def test_a_task_is_followed_to_its_end(serve: Callable[..., EventApi]) -> None:
    api = serve([b"retry: 1000\n\n", STARTED, OUTPUT[:10], OUTPUT[10:] + ENDED])
    assert names(api, key="secret") == ["started", "output", "ended"]
    ((path, headers),) = api.requests
    assert path == "/status/an%20id/events"
    assert headers["Authorization"] == "Bearer secret"
    assert "Last-Event-ID" not in headers


def test_a_broken_stream_is_resumed_behind_its_last_event(serve: Callable[..., EventApi]) -> None:
    api = serve([STARTED, OUTPUT], 503, [b""], [ENDED])
    assert names(api) == ["started", "output", AWAY, "ended"]
    assert [headers.get("Last-Event-ID") for _, headers in api.requests] == [None, "2", "2", "2"]


def test_an_unknown_task_is_an_error_with_the_apis_words(serve: Callable[..., EventApi]) -> None:
    with pytest.raises(TaskUnknown, match="the answer is 404"):
        names(serve(404))


def test_a_wrong_key_is_an_error(serve: Callable[..., EventApi]) -> None:
    with pytest.raises(ServiceNotRunning, match=r"API key of \.env"):
        names(serve(401))


def test_an_api_that_never_answered_is_an_error_at_once() -> None:
    with pytest.raises(ServiceNotRunning, match=r"does not answer at 127\.0\.0\.1, port"):
        list(watch(("127.0.0.1", find_free_port()), "a", sleep=pytest.fail))


def test_an_api_that_does_not_come_back_is_given_up(serve: Callable[..., EventApi]) -> None:
    api = serve([STARTED], *[503] * 100)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    events = watch(api.address, "a", sleep=sleep, clock=lambda: now[0])
    seen = []
    with pytest.raises(ServiceNotRunning):
        seen.extend(event.name for event in events)
    assert now[0] == pytest.approx(GIVE_UP_AFTER, abs=2)
