"""events.py: streams of events over HTTP, from the api's own protocol on real sockets, and a real Redis."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis
from support.asgi_client import LOOP, Client
from support.waiting import until
from uvicorn.config import Config
from uvicorn.server import ServerState

from app.serving.api import events as module
from app.serving.api.app import create_app
from app.serving.api.http.protocol import Protocol
from app.serving.queue import streams
from app.serving.queue.client import TaskQueue
from app.serving.settings import Settings
from app.serving.store import keys
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.reports import MAX_OUTPUT_BYTES, Report, ReportStore
from app.serving.store.tasks import TaskStore

OpenQueue = Callable[..., TaskQueue]


class Event(NamedTuple):
    name: str
    id: str
    data: Any


class Api:
    """The api on a port of its own."""

    def __init__(self, queue: TaskQueue, settings: Settings) -> None:
        self.queue = queue
        self.app = create_app(queue, lambda json_data: json_data, info=Path("none"), settings=settings)
        self._state = ServerState()
        config = Config(self.app, lifespan="off", ws="none", log_config=None)
        config.load()

        async def start() -> Any:
            loop = asyncio.get_running_loop()
            return await loop.create_server(lambda: Protocol(config, self._state, {}, loop), "127.0.0.1", 0)

        self._serving = LOOP.run(start())
        self._responses: list[Response] = []

    def request(self, method: str, path: str, body: str = "", **headers: str) -> Response:
        connection = socket.create_connection(self._serving.sockets[0].getsockname(), timeout=20)
        named = {"Host": "api", "Content-Length": str(len(body)), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items())
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n{body}".encode())
        self._responses.append(Response(connection))
        return self._responses[-1]

    def stop(self) -> None:
        """As uvicorn does on SIGTERM."""

        async def stop() -> None:
            for connection in list(self._state.connections):
                connection.shutdown()

        LOOP.run(stop())

    def close(self) -> None:
        for response in self._responses:
            response.close()

        async def close() -> None:
            self._serving.close()

        LOOP.run(close())


class Response:
    """A response that is read as it comes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._file = connection.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        lines = iter(lambda: self._file.readline().strip(), b"")
        self.headers = dict(line.decode().lower().split(": ", 1) for line in lines)

    def json(self) -> Any:
        return json.loads(self._file.read(int(self.headers["content-length"])))

    def lines(self) -> Iterator[str]:
        """The lines of the body, which comes in chunks of whole lines."""
        while size := int(self._file.readline(), 16):
            yield from self._file.read(size).decode().split("\n")[:-1]
            self._file.readline()

    def events(self) -> Iterator[Event]:
        fields: dict[str, str] = {}
        for line in self.lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                yield Event(fields["event"], fields["id"], json.loads(fields["data"]))
                fields = {}

    def close(self) -> None:
        self._file.close()
        self.connection.close()


@pytest.fixture
def serve(
    open_queue: OpenQueue, read_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Api]]:
    """The api with these settings: serve(API_KEYS="secret")."""
    monkeypatch.setattr(streams, "POSITION_INTERVAL", 0.05)
    opened: list[Api] = []

    def start(**environ: str) -> Api:
        opened.append(Api(open_queue(**environ), read_settings(**environ)))
        return opened[-1]

    yield start
    for api in opened:
        LOOP.call(api.queue.streams.close)
        api.close()


@pytest.fixture
def api(serve: Callable[..., Api]) -> Api:
    return serve()


@pytest.fixture
def claims(broker: Redis) -> Iterator[Claims]:
    claims = Claims(broker, ClaimLimits(deliveries=3, ttl=60), "host/1")
    yield claims
    claims.close()


@pytest.fixture
def reports(broker: Redis) -> ReportStore:
    return ReportStore(broker)


def accept(api: Api) -> str:
    task_id: str = api.request("POST", "/predict", '{"x": 1}').json()["data"]["task_id"]
    return task_id


def test_a_task_is_followed_to_its_end(api: Api, claims: Claims, reports: ReportStore, records: TaskStore) -> None:
    task_id = accept(api)
    response = api.request("GET", f"/status/{task_id}/events")
    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-store"
    events = response.events()
    assert next(events)[::2] == ("waiting", {"task_id": task_id, "position": 1})
    claims.take(limit=1)
    assert next(events).name == "started"
    reports.write(claims.holder, [Report(task_id, '{"fraction": 0.5, "message": "half"}', 0, ['"é\\n"'])])
    assert next(events)[::2] == ("output", "é\n")
    assert next(events)[::2] == ("progress", {"fraction": 0.5, "message": "half"})
    records.complete(task_id, "SUCCESS", {"a": 1}, ttl=60)
    (end,) = events
    assert (end.name, end.data["task_id"], end.data["status"], end.data["result"]) == (
        *("ended", task_id, "SUCCESS", {"a": 1}),
    )
    assert end.data.keys() >= {"times", "seconds", "progress"}


def test_a_request_can_be_answered_with_its_events(api: Api, records: TaskStore) -> None:
    response = api.request("POST", "/predict", '{"x": 1}', Accept="text/event-stream", Prefer="wait=5")
    assert (response.status, response.headers["content-type"]) == (200, "text/event-stream")
    task_id = response.headers["location"].removeprefix("/status/")
    events = response.events()
    assert next(events)[::2] == ("waiting", {"task_id": task_id, "position": 1})
    records.complete(task_id, "FAILURE", {"args": ["no model"]}, ttl=60)
    (end,) = events
    assert (end.name, end.data["status"], end.data["result"]) == ("ended", "FAILURE", {"args": ["no model"]})


def test_a_request_that_follows_is_refused_like_any_other(api: Api) -> None:
    response = api.request("POST", "/predict", "{", Accept="text/event-stream")
    assert (response.status, response.json()["title"]) == (400, "Malformed JSON")


def test_an_ended_task_is_answered_at_once(api: Api, records: TaskStore) -> None:
    task_id = accept(api)
    records.complete(task_id, "SUCCESS", {}, ttl=60)
    assert [event.name for event in api.request("GET", f"/status/{task_id}/events").events()] == ["ended"]


def test_cancelling_ends_the_stream(api: Api) -> None:
    task_id = accept(api)
    events = api.request("GET", f"/status/{task_id}/events").events()
    assert next(events).name == "waiting"
    assert api.request("DELETE", f"/status/{task_id}").status == 200
    (end,) = events
    assert (end.name, end.data["status"]) == ("ended", "REVOKED")


def test_a_stream_resumes_behind_the_last_event_id(
    api: Api, claims: Claims, reports: ReportStore, records: TaskStore
) -> None:
    task_id = accept(api)
    claims.take(limit=1)
    reports.write(claims.holder, [Report(task_id, "", 0, ["1", "2", "3"])])
    response = api.request("GET", f"/status/{task_id}/events")
    events = response.events()
    seen = [next(events) for _ in range(3)]
    response.close()
    records.complete(task_id, "SUCCESS", {}, ttl=60)
    resumed = api.request("GET", f"/status/{task_id}/events", Last_Event_ID=seen[-1].id)
    rest = list(resumed.events())
    assert [event.data for event in [*seen, *rest] if event.name == "output"] == [1, 2, 3]
    assert rest[-1].name == "ended"
    over = api.request("GET", f"/status/{task_id}/events", Last_Event_ID=rest[-1].id)
    assert over.status == 204, "which ends the retries of a browser's EventSource"


@pytest.mark.parametrize("path", ["/status/never/events", "/status/%FF/events"])
def test_an_unknown_task_is_404(api: Api, path: str) -> None:
    response = api.request("GET", path)
    assert (response.status, response.json()["title"]) == (404, "Unknown task")


def test_other_methods(api: Api) -> None:
    client, task_id = Client(api.app), accept(api)
    head = client.simulate_head(f"/status/{task_id}/events")
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream")
    assert client.simulate_head("/status/never/events").status_code == 404
    assert client.simulate_post(f"/status/{task_id}/events").status_code == 405


def test_keys_apply(serve: Callable[..., Api]) -> None:
    api = serve(API_KEYS="secret")
    task_id = api.request("POST", "/predict", "{}", Authorization="Bearer secret").json()["data"]["task_id"]
    assert api.request("GET", f"/status/{task_id}/events").status == 401
    assert api.request("POST", "/predict", "{}", Accept="text/event-stream").status == 401
    assert api.request("GET", f"/status/{task_id}/events", Authorization="Bearer secret").status == 200


def test_a_client_that_goes_frees_its_stream(api: Api) -> None:
    task_id = accept(api)
    responses = [api.request("GET", f"/status/{task_id}/events") for _ in range(3)]
    for response in responses:
        assert next(response.events()).name == "waiting"
        response.close()
    until(lambda: api.queue.streams._streams == {}, within=5, what="no stream")


def test_silence_is_filled_with_comments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE", 0.05)
    lines = api.request("GET", f"/status/{accept(api)}/events").lines()
    assert next(lines) == "retry: 1000"
    until(lambda: next(lines) == ": still there", what="a comment")
    until(lambda: next(lines) == ": still there", what="another one")


def test_too_many_streams_are_refused(api: Api, monkeypatch: pytest.MonkeyPatch, redis: Redis) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 1)
    task_id = accept(api)
    open_one = api.request("GET", f"/status/{task_id}/events")
    for refused in (
        api.request("GET", f"/status/{task_id}/events"),
        api.request("POST", "/predict", "{}", Accept="text/event-stream"),
    ):
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert refused.json()["description"] == "Too many streams of events are open. Try again later."
    assert redis.llen(keys.QUEUE) == 1, "nothing was accepted"
    open_one.close()


def test_a_client_that_reads_nothing_holds_little_and_is_cut_off(
    api: Api, claims: Claims, reports: ReportStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEND_TIMEOUT", 0.3)
    task_id = accept(api)
    claims.take(limit=1)
    response = api.request("GET", f"/status/{task_id}/events")
    text = json.dumps("x" * (MAX_OUTPUT_BYTES // 2))
    numbers = itertools.count()

    def is_cut_off() -> bool:
        reports.write(claims.holder, [Report(task_id, "", next(numbers), [text])])
        return not api.queue.streams._streams

    until(is_cut_off, what="the end of the stream")
    with pytest.raises((ConnectionError, ValueError)):
        list(response.events())


def test_a_server_that_stops_ends_its_streams_and_they_can_be_resumed(api: Api, records: TaskStore) -> None:
    task_id = accept(api)
    response = api.request("GET", f"/status/{task_id}/events")
    events = response.events()
    first = next(events)
    api.stop()
    assert list(events) == [], "the response is complete, and the client connects again"
    assert response.connection.recv(1) == b""
    records.complete(task_id, "SUCCESS", {}, ttl=60)
    resumed = api.request("GET", f"/status/{task_id}/events", Last_Event_ID=first.id)
    assert [event.name for event in resumed.events()] == ["ended"]


def test_a_server_that_stops_ends_a_stream_that_another_request_waits_for(api: Api) -> None:
    task_id = accept(api)
    response = api.request("GET", f"/status/{task_id}/events")
    events = response.events()
    assert next(events).name == "waiting"
    response.connection.sendall(f"GET /status/{task_id} HTTP/1.1\r\nHost: api\r\n\r\n".encode())
    # The server has read that when it has answered another connection.
    assert api.request("GET", f"/status/{task_id}").status == 200
    api.stop()
    assert list(events) == []
