"""resources.py and predict.py: the responses of each resource, over a fake queue; the contract has the cases."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import falcon
import pytest
import requests
from falcon.testing import Result, create_scope
from redis import ConnectionError as BrokerAway
from redis import Redis
from support.asgi_client import LOOP, Client
from support.waiting import until

from app.serving.api.app import create_app
from app.serving.api.predict import PipelineUnusable
from app.serving.callback_uri import endpoint_of
from app.serving.errors import BadInput, failure
from app.serving.queue.client import MemoryFull, Overloaded, TaskQueue
from app.serving.queue.submission import SubmitResult, TaskRequest
from app.serving.queue.waiting import Preferences, seconds_to_wait
from app.serving.settings import ResponseMode, Settings
from app.serving.store import keys
from app.serving.store.tasks import CallbackReport, Idempotency, KeyReused, QueueFull, TaskRecord, TaskStore
from app.serving.store.times import Times
from app.serving.store.workers import WorkerRegistry, WorkerReport, WorkerState

OpenQueue = Callable[..., TaskQueue]

ID = "11111111-1111-1111-1111-111111111111"
PENDING = TaskRecord(status="PENDING")
DONE = TaskRecord(status="SUCCESS", result={"a123": "Iris-setosa"})
ERROR = {"type": "NameError", "message": "name 'np' is not defined"}
FAILED = TaskRecord(status="FAILURE", result={"args": [ERROR["message"]], "error": ERROR})
ACCEPTED = {"status": "success", "data": {"task_id": ID}}

SYNCHRONOUS = ResponseMode(synchronous=True, timeout=7)
ASYNCHRONOUS = ResponseMode(synchronous=False, timeout=7)


class Queue:
    """A queue that accepts everything under one id, and records what was `submitted` and the `waits`."""

    def __init__(self, record: TaskRecord | None = PENDING, response: ResponseMode = ASYNCHRONOUS) -> None:
        self.record = record
        self.response = response
        self.reports: list[WorkerReport] = []
        self.submitted: list[tuple[Any, str | None]] = []
        self.idempotencies: list[Idempotency | None] = []
        self.traces: list[dict[str, str] | None] = []
        self.waits: list[float] = []

    async def submit(self, prepare: Callable[[], TaskRequest], prefer: Preferences, *, size: int) -> SubmitResult:
        request = prepare()
        self.submitted.append((request.verified, request.callback_uri))
        self.idempotencies.append(request.idempotency)
        self.traces.append(request.trace)
        seconds = seconds_to_wait(prefer, self.response)
        if seconds is None:
            return SubmitResult(task_id=ID)
        return SubmitResult(task_id=ID, waited=True, record=await self.wait(ID, seconds))

    def stop_waiting(self) -> None:
        pass

    async def find(self, task_id: str) -> TaskRecord | None:
        return self.record if task_id == ID else None

    async def wait(self, task_id: str, timeout: float) -> TaskRecord | None:
        self.waits.append(timeout)
        return await self.find(task_id)

    async def cancel(self, task_id: str) -> str | None:
        record = await self.find(task_id)
        if record is None:
            return None
        return record.status if record.is_finished else "REVOKED"

    async def workers(self) -> list[WorkerReport]:
        return self.reports


class Refuses(Queue):
    """A queue that accepts nothing, for this reason."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self._reason = reason

    async def submit(self, *_: Any, **__: Any) -> SubmitResult:
        raise self._reason


class Away(Queue):
    """A queue whose broker cannot be reached."""

    async def submit(self, *_: Any, **__: Any) -> SubmitResult:
        raise BrokerAway("Error 111 connecting to redis:6379")

    async def cancel(self, task_id: str) -> str | None:
        raise BrokerAway("Error 111 connecting to redis:6379")

    async def find(self, task_id: str) -> TaskRecord | None:
        raise BrokerAway("Error 111 connecting to redis:6379")

    async def workers(self) -> list[WorkerReport]:
        raise BrokerAway("Error 111 connecting to redis:6379")

    async def wait(self, task_id: str, timeout: float) -> TaskRecord | None:
        return await self.find(task_id)


def as_it_is(json_data: Any) -> Any:
    return json_data


def serve(
    queue: Any = None, verify_input: Callable[[Any], Any] = as_it_is, *, info: Path = Path("info.txt"), **environ: str
) -> Client:
    settings = Settings.from_environment(environ)
    return Client(create_app(queue or Queue(), verify_input, info=info, settings=settings))


def problem(answer: Result) -> tuple[int, str, str]:
    """Status, title and description of an error, whose shape is checked."""
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert {"title", "description", "status"} <= set(answer.json)
    assert answer.json["status"] == answer.status_code
    return answer.status_code, answer.json["title"], answer.json["description"]


# Callbacks of this project itself


@pytest.mark.parametrize("webhook_id", [ID, f"{ID}.2"])
def test_a_callback_of_this_project_makes_no_task_here(webhook_id: str) -> None:
    queue = Queue()
    answer = serve(queue).simulate_post("/predict", json={}, headers={"webhook-id": webhook_id})
    assert problem(answer)[:2] == (403, "Own callback")
    assert queue.submitted == []


def test_a_callback_of_another_project_makes_a_task() -> None:
    answer = serve().simulate_post("/predict", json={}, headers={"webhook-id": "of-another-project"})
    assert answer.status_code == 200


# GET /info


def test_info_is_the_text_of_the_file_as_it_is_now(tmp_path: Path) -> None:
    info = tmp_path / "info.txt"
    client = serve(info=info)
    for text in ("version 1", "version 2, naïve ☃\n"):
        info.write_text(text, encoding="utf-8")
        answer = client.simulate_get("/info")
        assert (answer.status_code, answer.text) == (200, text)
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_info_without_a_file_is_404(tmp_path: Path) -> None:
    answer = serve(info=tmp_path / "info.txt").simulate_get("/info")
    assert problem(answer)[:2] == (404, "No information")


# POST /predict


def test_predict_answers_with_the_id_of_the_task() -> None:
    answer = serve().simulate_post("/predict", json={"x": 1})
    assert (answer.status_code, answer.json) == (200, ACCEPTED)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["location"] == f"/status/{ID}"
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain", "application/vnd.api+json"]
)
def test_json_is_taken_under_each_content_type_that_clients_send(content_type: str) -> None:
    queue = Queue()
    answer = serve(queue).simulate_post("/predict", body='{"x": 1}', content_type=content_type)
    assert answer.status_code == 200
    assert queue.submitted == [({"x": 1}, None)]


def test_another_content_type_is_415_with_those_that_are_taken() -> None:
    queue = Queue()
    answer = serve(queue).simulate_post("/predict", body="<x/>", content_type="application/xml")
    assert problem(answer)[:2] == (415, "Unsupported Content-Type")
    assert "'application/xml'" in answer.json["description"]
    assert "application/json, multipart/form-data, image/*" in answer.headers["accept"]
    assert queue.submitted == []


def test_another_content_encoding_is_415_with_those_that_are_taken() -> None:
    queue = Queue()
    answer = serve(queue).simulate_post("/predict", body="{}", headers={"Content-Encoding": "br"})
    assert problem(answer)[:2] == (415, "Unsupported Content-Encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert queue.submitted == []


def test_a_compressed_body_is_read() -> None:
    queue = Queue()
    body = gzip.compress(b'{"x": 1}')
    answer = serve(queue).simulate_post("/predict", body=body, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 200
    assert queue.submitted == [({"x": 1}, None)]


def test_a_decompression_bomb_is_413() -> None:
    body = gzip.compress(bytes(10_000_000))
    answer = serve(BODY_LIMIT_MB="0.1").simulate_post("/predict", body=body, headers={"Content-Encoding": "gzip"})
    assert problem(answer)[:2] == (413, "Body too large")


def test_a_refused_body_is_not_kept() -> None:
    """Its error, the frames of its traceback, the request and the future that brought it are a circle."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"[" + b" " * 1_000_000}

    async def send(event: dict[str, Any]) -> None:
        answered.append(event.get("status"))

    answered: list[int | None] = []
    settings = Settings.from_environment({})
    app = create_app(TaskQueue(Redis(), settings), as_it_is, info=Path("info.txt"), settings=settings)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(10):
            LOOP.run(app(create_scope(method="POST", path="/predict"), receive, send))
        assert answered == [400, None] * 10
        assert tracemalloc.get_traced_memory()[0] < 4_000_000
    finally:
        tracemalloc.stop()
        gc.enable()


def test_the_parts_of_a_form_reach_verify_input_and_its_callback_uri_is_used() -> None:
    queue = Queue()
    fields = {"threshold": "0.5", "callback_uri": "http://example.com/stash"}
    files = {"image": ("a.png", b"PNG", "image/png")}
    sent = requests.Request("POST", "http://api/predict", data=fields, files=files).prepare()
    answer = serve(queue).simulate_post("/predict", body=sent.body, headers=dict(sent.headers))
    assert answer.status_code == 200
    image = {"filename": "a.png", "content_type": "image/png", "base64": "UE5H"}
    assert queue.submitted == [({**fields, "image": image}, "http://example.com/stash")]


def test_a_body_that_is_a_file_has_its_callback_uri_in_the_query() -> None:
    queue = Queue()
    answer = serve(queue).simulate_post(
        "/predict", body=b"PNG", content_type="image/png", query_string="callback_uri=http%3A%2F%2Fexample.com%2Fa%3Fb"
    )
    assert answer.status_code == 200
    file = {"filename": None, "content_type": "image/png", "base64": "UE5H"}
    assert queue.submitted == [({"file": file, "callback_uri": "http://example.com/a?b"}, "http://example.com/a?b")]


def test_a_callback_uri_that_comes_twice_is_refused() -> None:
    query = "callback_uri=http://example.com/a&callback_uri=http://example.com/b"
    answer = serve().simulate_post("/predict", body=b"PNG", content_type="image/png", query_string=query)
    assert problem(answer)[:2] == (400, "Bad input format")


def test_the_same_files_under_another_boundary_are_the_same_body() -> None:
    queue = Queue()
    for content in (b"PNG", b"PNG", b"another"):
        files = {"image": ("a.png", content, "image/png")}
        sent = requests.Request("POST", "http://api/predict", files=files).prepare()
        headers = {**sent.headers, "Idempotency-Key": "order-4711"}
        assert serve(queue).simulate_post("/predict", body=sent.body, headers=headers).status_code == 200
    first, second, third = (idempotency.body for idempotency in queue.idempotencies if idempotency)
    assert first == second != third


def test_a_wait_may_have_a_fraction() -> None:
    queue = Queue()
    answer = serve(queue).simulate_post("/predict", json={}, headers={"Prefer": "wait=0.5"})
    assert (answer.status_code, answer.headers["preference-applied"], queue.waits) == (202, "wait=0.5", [0.5])


@pytest.mark.parametrize("value", [{}, [], "text", 1, 1.5, True, None, {"naïve": "☃"}])
def test_any_json_value_reaches_verify_input(value: Any) -> None:
    seen = []
    serve(verify_input=seen.append).simulate_post("/predict", body=json.dumps(value))
    assert seen == [value]


def test_what_verify_input_returns_is_submitted() -> None:
    queue = Queue()
    serve(queue, lambda json_data: {"verified": json_data["x"]}).simulate_post("/predict", json={"x": 1})
    assert queue.submitted == [({"verified": 1}, None)]


def test_numpy_from_verify_input_is_submitted_as_json_values() -> None:
    import numpy as np

    queue = Queue()
    serve(queue, lambda json_data: {"rows": np.array([[1.0, np.nan]])}).simulate_post("/predict", json={})
    assert queue.submitted == [({"rows": [[1.0, None]]}, None)]


def test_the_callback_is_read_before_verify_input_can_change_it() -> None:
    queue = Queue()

    def verify_input(json_data: Any) -> Any:
        json_data["callback_uri"] = "http://changed.example"
        return json_data.pop("callback_uri")

    answer = serve(queue, verify_input).simulate_post("/predict", json={"callback_uri": "http://receiver.example"})
    assert answer.status_code == 200
    assert queue.submitted == [("http://changed.example", "http://receiver.example")]


@pytest.mark.parametrize("request_body", [{"x": 1}, {"callback_uri": None}, ["callback_uri"], "callback_uri"])
def test_a_callback_is_optional(request_body: Any) -> None:
    queue = Queue()
    assert serve(queue).simulate_post("/predict", json=request_body).status_code == 200
    assert [callback for _, callback in queue.submitted] == [None]


@pytest.mark.parametrize("uri", ["receiver.example", "ftp://receiver.example", "", 5, ["http://a.example"], False])
def test_a_bad_callback_uri_is_bad_input_and_nothing_is_submitted(uri: Any) -> None:
    queue = Queue()
    answer = serve(queue).simulate_post("/predict", json={"callback_uri": uri})
    assert problem(answer)[:2] == (400, "Bad input format")
    assert answer.json["description"].startswith("callback_uri must be ")
    assert queue.submitted == []


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "localhost:6379", "[::ffff:169.254.169.254]", "a@127.1"])
def test_a_callback_uri_with_a_blocked_address_is_bad_input(host: str) -> None:
    queue = Queue()
    answer = serve(queue).simulate_post("/predict", json={"callback_uri": f"http://{host}/stash"})
    assert problem(answer)[:2] == (400, "Bad input format")
    assert answer.json["description"].startswith("callback_uri must not lead to ")
    assert queue.submitted == []


class OfTheUser(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "description"),
    [
        (ValueError("no data to predict for!"), "no data to predict for!"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (asyncio.CancelledError(), "CancelledError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (BaseExceptionGroup("several", [GeneratorExit()]), "several (1 sub-exception)"),
        (KeyError("data"), "KeyError: 'data'"),
        (BadInput("not an image"), "not an image"),
        (OfTheUser("naïve ☃"), "naïve ☃"),
        (AssertionError(), "AssertionError"),
        (TypeError("string indices must be integers"), "string indices must be integers"),
        (RecursionError("too deep"), "too deep"),
        (ValueError("x" * 5000), "x" * 997 + "..."),
        (BrokerAway("the user's own Redis is away"), "the user's own Redis is away"),
        (falcon.HTTPNotFound(), "HTTPNotFound"),
    ],
)
def test_what_verify_input_raises_is_bad_input(error: BaseException, description: str) -> None:
    queue = Queue()

    def verify_input(json_data: Any) -> Any:
        raise error

    status, title, said = problem(serve(queue, verify_input).simulate_post("/predict", json={}))
    assert (status, title) == (400, "Bad input format")
    assert description in said
    assert queue.submitted == []


def test_values_of_verify_input_that_are_not_json_are_an_error_of_the_pipeline() -> None:
    queue = Queue()
    answer = serve(queue, lambda json_data: {"ids": object()}).simulate_post("/predict", json={})
    assert problem(answer)[:2] == (500, "Pipeline error")
    assert answer.json["description"].startswith('verify_input(...)["ids"] is a object: not JSON serialisable')
    assert queue.submitted == []


def test_a_pipeline_that_cannot_be_imported_is_an_error_of_the_pipeline() -> None:
    def verify_input(json_data: Any) -> Any:
        raise PipelineUnusable("pipeline.py cannot be imported: ModuleNotFoundError: No module named 'sklearn'")

    assert problem(serve(verify_input=verify_input).simulate_post("/predict", json={})) == (
        500,
        "Pipeline error",
        "pipeline.py cannot be imported: ModuleNotFoundError: No module named 'sklearn'",
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"rows": [{"x": 1}, {"x": NaN}]}', 'NaN is not JSON at ["rows"][1]["x"]; send null for a missing number'),
        (b"[-Infinity, NaN]", "-Infinity is not JSON at [0]; send null for a missing number"),
        (b"NaN", "NaN is not JSON at the top; send null for a missing number"),
        (
            b'{"a": Infinity, "b": }',
            "Infinity is not JSON at an unknown place, as the rest is malformed too; send null for a missing number",
        ),
        ('{"größe": NaN}'.encode(), 'NaN is not JSON at ["größe"]; send null for a missing number'),
        (b'{"%s": NaN}' % (b"x" * 300), f'NaN is not JSON at ["{"x" * 195}...; send null for a missing number'),
    ],
)
def test_a_number_that_json_has_not_is_named_with_its_place(content: bytes, reason: str) -> None:
    response = serve(Queue()).simulate_post("/predict", body=content)
    assert problem(response) == (400, "Malformed JSON", f"Malformed JSON: {reason}")
    assert "\\u" not in response.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"x": 1,}',
        b"{'x': 1}",
        b'{"x": NaN}',
        b'{"x": [1e999]}',
        b'{"x": -1e400}',
        b'{"x": %s.0}' % (b"9" * 400),
        b'{"x": Infinity}',
        b"[-Infinity]",
        b"\xff\xfe\x00",
        b'"\xff"',
        b"x=1",
        b'{"x": 1} trailing',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b"1e999",
        b'{"x": [{"y": -1e999}]}',
        b'{"id": 12345678901234567890, "x": 1E+999}',
        b"9" * 400 + b".5",
    ],
)
def test_malformed_json_is_400_and_nothing_is_submitted(content: bytes) -> None:
    queue = Queue()
    status, title, description = problem(serve(queue).simulate_post("/predict", body=content))
    assert (status, title) == (400, "Malformed JSON")
    assert description.startswith("Malformed JSON: ")
    assert queue.submitted == []


@pytest.mark.parametrize(
    ("number", "named"), [("1e999", "1e999"), ("-1.8E308", "-1.8E308"), ("9" * 400 + ".0", "9" * 37 + "...")]
)
def test_a_number_that_no_float_can_hold_is_named(number: str, named: str) -> None:
    answer = serve().simulate_post("/predict", body=f'{{"x": [1, {number}]}}')
    assert problem(answer) == (400, "Malformed JSON", f"Malformed JSON: the number {named} is too large")


@pytest.mark.parametrize(
    "content",
    [
        "1.7976931348623157e308",
        "-1e308",
        "1e-999",
        "0.12345678901234567890123",
        '"1e999"',
        "12345678901234567890123",
        "-12345678901234567890123",
        " 12345678901234567890123",
        "[12345678901234567890123]",
        "[1.5,-12345678901234567890123]",
        '{"x":12345678901234567890123}',
        '{"x":\n\t12345678901234567890123}',
    ],
)
def test_numbers_and_strings_close_to_that_are_submitted_unchanged(content: str) -> None:
    queue = Queue()
    assert serve(queue).simulate_post("/predict", body=content).status_code == 200
    assert queue.submitted[0][0] == json.loads(content)
    assert type(queue.submitted[0][0]) is type(json.loads(content))


def test_a_request_without_a_body_is_malformed_json() -> None:
    assert problem(serve().simulate_post("/predict")) == (400, "Malformed JSON", "Malformed JSON: the body is empty")


def test_deep_nesting_is_an_error_of_the_request() -> None:
    """At every depth that is rejected, with 400 and not 500."""
    statuses = {
        serve().simulate_post("/predict", body="[" * depth + "]" * depth).status_code for depth in range(100, 1200, 20)
    }
    assert statuses == {200, 400}


def test_a_body_at_the_limit_is_accepted_and_one_above_it_is_413() -> None:
    queue = Queue()
    client = serve(queue, BODY_LIMIT_MB="0.001")
    limit = 1048
    assert client.simulate_post("/predict", body='"' + "x" * (limit - 2) + '"').status_code == 200
    status, title, description = problem(client.simulate_post("/predict", body='"' + "x" * (limit - 1) + '"'))
    assert (status, title) == (413, "Body too large")
    assert str(limit) in description
    assert len(queue.submitted) == 1


def test_a_header_that_comes_twice_is_a_list() -> None:
    """Falcon's test client joins them; a server passes both."""
    sent: list[dict[str, Any]] = []

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    parts = [b'{"x"', b"", b": 1}"]
    queue = Queue()
    headers = [(b"prefer", b"unknown"), (b"prefer", b"wait=3")]
    scope = {"type": "http", "path": "/predict", "method": "POST", "headers": headers}
    app = create_app(queue, as_it_is, info=Path("info.txt"), settings=Settings.from_environment({}))  # type: ignore[arg-type]
    LOOP.run(app(scope, receive, send))
    assert (sent[0]["status"], queue.waits, queue.submitted) == (202, [3], [({"x": 1}, None)])


def test_a_client_that_goes_away_within_its_body_makes_no_task() -> None:
    events = [{"type": "http.request", "body": b'{"x": 1}', "more_body": True}, {"type": "http.disconnect"}]
    sent: list[dict[str, Any]] = []

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    queue = Queue()
    scope = {**create_scope("/predict", method="POST"), "headers": [(b"transfer-encoding", b"chunked")]}
    app = create_app(queue, as_it_is, info=Path("info.txt"), settings=Settings.from_environment({}))  # type: ignore[arg-type]
    LOOP.run(app(scope, receive, send))
    assert (sent[0]["status"], queue.submitted) == (400, [])


@pytest.mark.parametrize(("size", "status"), [(1048, 200), (1049, 413), (10_000_000, 413)])
def test_a_chunked_body_has_the_same_limit(size: int, status: int) -> None:
    """A chunked request has no Content-Length."""
    content = ('"' + "x" * (size - 2) + '"').encode()
    answer = serve(BODY_LIMIT_MB="0.001").simulate_post(
        "/predict", body=content, headers={"Transfer-Encoding": "chunked", "Content-Length": None}
    )
    assert answer.status_code == status
    assert answer.headers.get("connection") == ("close" if status == 413 else None)


@pytest.mark.parametrize(
    ("reason", "description"),
    [
        (Overloaded(), "Too many requests wait; nothing was accepted. Try again later."),
        (QueueFull(), "The queue is full; nothing was accepted. Try again later."),
        (MemoryFull("OOM command"), "The queue's memory is full; nothing was accepted. Try again later."),
    ],
)
def test_a_full_queue_is_503_with_retry_after(reason: Exception, description: str) -> None:
    answer = serve(Refuses(reason)).simulate_post("/predict", json={})
    assert problem(answer) == (503, "Service unavailable", description)
    assert int(answer.headers["retry-after"]) > 0


def test_a_broker_that_is_away_is_503_with_retry_after() -> None:
    for answer in (
        serve(Away()).simulate_post("/predict", json={}),
        serve(Away()).simulate_get(f"/status/{ID}"),
        serve(Away()).simulate_get(f"/status/{ID}", headers={"Prefer": "wait=5"}),
        serve(Away()).simulate_delete(f"/status/{ID}"),
    ):
        assert problem(answer)[:2] == (503, "Service unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert "6379" not in answer.text


# Idempotency-Key


def post(client: Client, body: str | bytes = b"{}", *, key: str | None = None, **headers: str) -> Result:
    return client.simulate_post(
        "/predict", body=body, headers={**headers, **({} if key is None else {"Idempotency-Key": key})}
    )


def idempotency(body: str | bytes = b"{}", key: str = "a-key", api_key: str | None = None) -> Idempotency:
    """The digests that the queue gets for a request with this key and body."""
    queue = Queue()
    if api_key is None:
        client, headers = serve(queue), {}
    else:
        client, headers = serve(queue, API_KEYS="one,two"), {"Authorization": f"Bearer {api_key}"}
    assert post(client, body, key=key, **headers).status_code == 200
    (submitted,) = queue.idempotencies
    assert submitted is not None
    return submitted


def test_without_the_header_there_is_no_idempotency() -> None:
    queue = Queue()
    post(serve(queue))
    assert queue.idempotencies == [None]


def test_the_key_itself_is_not_passed_on() -> None:
    submitted = idempotency(b'{"secret": 1}', key="a-secret-key")
    assert "secret" not in f"{submitted.key} {submitted.body}"


@pytest.mark.parametrize(
    "same",
    [
        b'{"b": [1, {"d": null, "c": "\xe2\x98\x83"}], "a": 1.5}',
        b'{"a":1.5,"b":[1,{"c":"\xe2\x98\x83","d":null}]}',
        b'\n{ "a" : 15e-1,\t"b" : [1, {"c": "\\u2603", "d": null}] }',
    ],
)
def test_whitespace_escapes_and_the_order_of_keys_make_no_other_body(same: bytes) -> None:
    assert idempotency(same) == idempotency(b'{"a": 1.5, "b": [1, {"c": "\\u2603", "d": null}]}')


@pytest.mark.parametrize("other", [b"[2, 1]", b"[1]", b"[1, 2, null]", b'["1", 2]', b"[true, 2]", b"{}", b"null"])
def test_another_value_is_another_body(other: bytes) -> None:
    assert idempotency(other).body != idempotency(b"[1, 2]").body
    assert idempotency(other).key == idempotency(b"[1, 2]").key


def test_clients_with_different_api_keys_do_not_share_their_keys() -> None:
    digests = {idempotency(api_key=api_key).key for api_key in ("one", "two", None)}
    assert len(digests) == 3
    assert idempotency(api_key="one") == idempotency(api_key="one")


def test_without_api_keys_authorization_distinguishes_no_clients() -> None:
    """The header may be a proxy's, and differ with each request."""
    queue = Queue()
    for authorization in ("Bearer a", "Bearer b", "Basic c"):
        post(serve(queue), key="a-key", Authorization=authorization)
    assert queue.idempotencies == [idempotency()] * 3


def test_the_body_that_counts_is_the_one_before_verify_input() -> None:
    queue = Queue()

    def verify_input(json_data: Any) -> Any:
        json_data["x"] = 5
        return json_data

    post(serve(queue, verify_input), b'{"x": 1}', key="a-key")
    assert queue.idempotencies == [idempotency(b'{"x": 1}')]


@pytest.mark.parametrize("key", ["a", "x" * 255, ' !"#~ a{}\\', '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "0", "a, b"])
def test_a_valid_key_is_accepted(key: str) -> None:
    assert post(serve(), key=key).status_code == 200


@pytest.mark.parametrize(
    ("key", "description"),
    [
        ("", "Idempotency-Key is empty."),
        ("  ", "Idempotency-Key is empty."),
        ("x" * 256, "Idempotency-Key has 256 characters; it may have 255 at most."),
        ("x" * 100_000, "Idempotency-Key has 100000 characters; it may have 255 at most."),
        ("a\tb", "Idempotency-Key may have printable ASCII characters only."),
        ("a\x00b", "Idempotency-Key may have printable ASCII characters only."),
        ("a\x7fb", "Idempotency-Key may have printable ASCII characters only."),
        ("na\xefve", "Idempotency-Key may have printable ASCII characters only."),
        ("\xff", "Idempotency-Key may have printable ASCII characters only."),
    ],
)
def test_a_bad_key_is_400_and_nothing_is_submitted(key: str, description: str) -> None:
    queue = Queue()
    answer = serve(queue).simulate_post("/predict", json={}, headers={"Idempotency-Key": key})
    assert problem(answer) == (400, "Bad Idempotency-Key", description)
    assert queue.submitted == []


def test_a_key_that_came_with_another_body_is_422() -> None:
    answer = post(serve(Refuses(KeyReused())), key="a-key")
    assert problem(answer) == (
        422,
        "Idempotency-Key used before",
        "This Idempotency-Key came with another body before; nothing was accepted.",
    )


def test_deep_nesting_with_a_key_is_an_error_of_the_request() -> None:
    statuses = {
        post(serve(verify_input=lambda _: 1), "[" * depth + "]" * depth, key="a-key").status_code
        for depth in range(100, 1200, 20)
    }
    assert statuses == {200, 400}


@pytest.mark.parametrize("name", ["Idempotency-Key", "Prefer", "Authorization", "Accept"])
@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "\xff" * 300, '"', '"\\', ",,;=,", "wait=", "wait=\xb2", "Bearer \xe9"]
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/predict"), ("GET", f"/status/{ID}"), ("DELETE", f"/status/{ID}")]
)
def test_any_value_of_a_header_gets_a_response_of_the_contract(method: str, path: str, name: str, text: str) -> None:
    for client in (serve(), serve(API_KEYS="one")):
        answer = client.simulate_request(method, path, body="{}", headers={name: text})
        assert answer.status_code in (200, 400, 401)


# Synchronous answers


@pytest.mark.parametrize(
    ("response", "prefer", "waits", "applied"),
    [
        (ASYNCHRONOUS, None, [], None),
        (ASYNCHRONOUS, "wait=3", [3], "wait=3"),
        (ASYNCHRONOUS, "wait=0", [0], "wait=0"),
        (ASYNCHRONOUS, "respond-async", [], "respond-async"),
        (ASYNCHRONOUS, "wait=soon, return=minimal", [], None),
        (SYNCHRONOUS, None, [7], None),
        (SYNCHRONOUS, "wait=3", [3], "wait=3"),
        (SYNCHRONOUS, "respond-async", [], "respond-async"),
        (SYNCHRONOUS, "wait=soon", [7], None),
        (SYNCHRONOUS, "respond-async, wait=3", [3], "wait=3"),
    ],
)
def test_the_mode_of_the_deployment_applies_unless_the_request_prefers_otherwise(
    response: ResponseMode, prefer: str | None, waits: list[float], applied: str | None
) -> None:
    queue = Queue(DONE, response)
    headers = {"Prefer": prefer} if prefer else {}
    answer = serve(queue).simulate_post("/predict", json={}, headers=headers)
    assert queue.waits == waits
    assert answer.headers.get("preference-applied") == applied
    assert (answer.status_code, answer.json) == (200, DONE.result if waits else ACCEPTED)


@pytest.mark.parametrize("record", [PENDING, TaskRecord(status="STARTED"), TaskRecord(status="RETRY"), None])
def test_a_wait_that_runs_out_is_202_with_the_id(record: TaskRecord | None) -> None:
    answer = serve(Queue(record, SYNCHRONOUS)).simulate_post("/predict", json={})
    assert (answer.status_code, answer.json) == (202, ACCEPTED)
    assert answer.headers["location"] == f"/status/{ID}"


@pytest.mark.parametrize(
    ("record", "description"),
    [
        (FAILED, "name 'np' is not defined"),
        (TaskRecord(status="FAILURE", result=failure(KeyError("rows"))), "KeyError: 'rows'"),
        (TaskRecord(status="FAILURE", result=failure(ValueError())), "ValueError"),
        (TaskRecord(status="FAILURE", result={"args": [2, "No such file"]}), "2, No such file"),
        (TaskRecord(status="FAILURE", result={"args": []}), "FAILURE"),
        (TaskRecord(status="REVOKED", result={"args": ["terminated"]}), "terminated"),
    ],
)
def test_a_failed_prediction_is_500_with_its_message_and_id(record: TaskRecord, description: str) -> None:
    answer = serve(Queue(record, SYNCHRONOUS)).simulate_post("/predict", json={})
    assert problem(answer) == (500, "Prediction failed", description)
    assert answer.json["task_id"] == ID
    assert answer.json.get("error") == (record.result or {}).get("error")
    assert "Traceback" not in answer.text


def test_a_bad_input_that_the_worker_found_is_400() -> None:
    record = TaskRecord(status="FAILURE", result=failure(BadInput("not an image")))
    answer = serve(Queue(record, SYNCHRONOUS)).simulate_post("/predict", json={})
    assert problem(answer) == (400, "Bad input format", "not an image")
    assert answer.json["task_id"] == ID
    assert answer.json["error"] == {"type": "BadInput", "message": "not an image"}


# GET /status


@pytest.mark.parametrize(
    "record",
    [
        PENDING,
        TaskRecord(status="STARTED"),
        TaskRecord(status="RETRY"),
        DONE,
        TaskRecord(status="REVOKED", result={"args": ["terminated"]}),
        # Of an earlier release.
        TaskRecord(status="FAILURE", result={"args": ["terminated"]}),
    ],
)
def test_status_shows_state_and_result(record: TaskRecord) -> None:
    answer = serve(Queue(record)).simulate_get(f"/status/{ID}")
    assert (answer.status_code, answer.json) == (200, {"status": record.status, "result": record.result})
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


def test_status_shows_the_error_of_a_task_beside_its_result() -> None:
    answer = serve(Queue(FAILED)).simulate_get(f"/status/{ID}")
    assert answer.json == {"status": "FAILURE", "result": {"args": [ERROR["message"]]}, "error": ERROR}


def test_status_shows_the_position_of_a_task_that_waits() -> None:
    answer = serve(Queue(TaskRecord(status="PENDING", position=3))).simulate_get(f"/status/{ID}")
    assert answer.json == {"status": "PENDING", "result": None, "position": 3}


def test_status_shows_progress_times_and_an_estimate() -> None:
    times = Times(accepted=1_700_000_000, started=1_700_000_001.5, now=1_700_000_004)
    record = TaskRecord(status="STARTED", progress='{"fraction": 0.4, "message": "page 4 of 10"}', eta=2, times=times)
    assert serve(Queue(record)).simulate_get(f"/status/{ID}").json == {
        "status": "STARTED",
        "result": None,
        "eta_seconds": 2,
        "progress": {"fraction": 0.4, "message": "page 4 of 10"},
        "times": {"accepted": "2023-11-14T22:13:20.000Z", "started": "2023-11-14T22:13:21.500Z", "ended": None},
        "seconds": {"waited": 1.5, "ran": 2.5},
    }


TRACEPARENT = f"00-{32 * 'a'}-{16 * 'b'}-01"


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({}, None),
        ({"traceparent": TRACEPARENT}, {"traceparent": TRACEPARENT}),
        ({"X-Request-ID": "order 4711"}, {}),
        ({"x-request-id": "order-4711"}, {"x_request_id": "order-4711"}),
        ({"traceparent": TRACEPARENT, "X-Request-ID": " 7 "}, {"traceparent": TRACEPARENT, "x_request_id": "7"}),
        ({"traceparent": "00-1-2-01"}, {}),
        ({"traceparent": TRACEPARENT.replace("00-", "ff-")}, {}),
        ({"traceparent": f"00-{32 * '0'}-{16 * 'b'}-01"}, {}),
        ({"traceparent": f"cc-{32 * 'a'}-{16 * 'b'}-01-later"}, {"traceparent": f"cc-{32 * 'a'}-{16 * 'b'}-01-later"}),
        ({"x-request-id": 128 * "x"}, {"x_request_id": 128 * "x"}),
        ({"x-request-id": 129 * "x"}, {}),
        ({"x-request-id": ""}, {}),
    ],
)
def test_trace_headers_follow_the_task_where_they_are_valid(
    headers: dict[str, str], kept: dict[str, str] | None
) -> None:
    queue = Queue()
    assert serve(queue).simulate_post("/predict", json={"x": 1}, headers=headers).status_code == 200
    assert queue.traces == [kept]


@pytest.mark.parametrize(
    "callback",
    [
        CallbackReport(state="PENDING"),
        CallbackReport(state="DELIVERED", attempts=2),
        CallbackReport(state="FAILED", attempts=11, last_error="answered 503"),
    ],
)
def test_status_shows_the_state_of_the_callback(callback: CallbackReport) -> None:
    record = TaskRecord(status="SUCCESS", result={"a": 1}, callback_uri="http://receiver.example", callback=callback)
    assert serve(Queue(record)).simulate_get(f"/status/{ID}").json == {
        "status": "SUCCESS",
        "result": {"a": 1},
        "callback": {"state": callback.state, "attempts": callback.attempts, "last_error": callback.last_error},
    }


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_status_of_no_id_at_all_is_an_unknown_path(method: str) -> None:
    assert problem(serve().simulate_request(method, "/status/"))[:2] == (404, "Not found")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", ["/status/never", "/status/%FF", "/status/%2e%2e", "/status/" + "x" * 5000])
def test_an_unknown_task_is_404(method: str, path: str) -> None:
    assert problem(serve().simulate_request(method, path))[:2] == (404, "Unknown task")


def test_status_waits_where_that_is_preferred() -> None:
    queue = Queue(DONE)
    answer = serve(queue).simulate_get(f"/status/{ID}", headers={"Prefer": "wait=12"})
    assert queue.waits == [12]
    assert answer.headers["preference-applied"] == "wait=12"
    assert answer.json == {"status": "SUCCESS", "result": DONE.result}


def test_status_does_not_wait_in_synchronous_mode_alone() -> None:
    queue = Queue(PENDING, SYNCHRONOUS)
    serve(queue).simulate_get(f"/status/{ID}")
    assert queue.waits == []


# DELETE /status


@pytest.mark.parametrize("status", ["PENDING", "STARTED", "RETRY", "REVOKED"])
def test_a_task_that_has_not_ended_or_was_cancelled_before_is_cancelled(status: str) -> None:
    answer = serve(Queue(TaskRecord(status=status))).simulate_delete(f"/status/{ID}")
    assert (answer.status_code, answer.json) == (200, {"status": "REVOKED"})
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("record", [DONE, FAILED])
def test_a_task_that_has_ended_is_not_cancelled(record: TaskRecord) -> None:
    assert problem(serve(Queue(record)).simulate_delete(f"/status/{ID}")) == (
        409,
        "Task has ended",
        f"The task {ID} cannot be cancelled: it has ended as {record.status}.",
    )


# GET /health


@pytest.mark.parametrize("path", ["/health/live", "/v2/health/live"])
def test_live_is_200_whatever_is_missing(path: str) -> None:
    answer = serve(Away()).simulate_get(path)
    assert (answer.status_code, answer.json) == (200, {"live": True})


def report(state: WorkerState, cause: str = "") -> WorkerReport:
    return WorkerReport(name=f"worker@{state.value.lower()}", state=state, cause=cause)


@pytest.mark.parametrize("path", ["/health/ready", "/v2/health/ready"])
@pytest.mark.parametrize(
    ("reports", "status"),
    [
        ([], 503),
        ([report(WorkerState.LOADING)], 503),
        ([report(WorkerState.ERROR, "ValueError: no")], 503),
        ([report(WorkerState.UP)], 200),
        ([report(WorkerState.ERROR, "ValueError: no"), report(WorkerState.UP)], 200),
    ],
)
def test_ready_is_200_when_a_worker_has_its_model(path: str, reports: list[WorkerReport], status: int) -> None:
    queue = Queue()
    queue.reports = reports
    answer = serve(queue).simulate_get(path)
    assert answer.status_code == status
    assert answer.json == {
        "ready": status == 200,
        "broker": "UP",
        "workers": [{"name": each.name, "state": each.state.value, "cause": each.cause} for each in reports],
    }
    assert ("retry-after" in answer.headers) == (status == 503)


def test_ready_shows_that_the_broker_is_away() -> None:
    answer = serve(Away()).simulate_get("/health/ready")
    assert (answer.status_code, answer.json) == (503, {"ready": False, "broker": "DOWN", "workers": []})


# Everything else

READ = {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", {"POST", "OPTIONS"}),
        ("PUT", "/predict", {"POST", "OPTIONS"}),
        ("POST", "/info", READ),
        ("POST", f"/status/{ID}", READ | {"DELETE"}),
        ("PATCH", f"/status/{ID}", READ | {"DELETE"}),
        ("DELETE", "/predict", {"POST", "OPTIONS"}),
        ("POST", "/health/live", READ),
        ("DELETE", "/health/ready", READ),
    ],
)
def test_an_unsupported_method_is_405(method: str, path: str, allowed: set[str]) -> None:
    answer = serve().simulate_request(method, path)
    assert problem(answer)[:2] == (405, "Method Not Allowed")
    assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/predict", {"POST"}), (f"/status/{ID}", {"GET", "HEAD", "DELETE"}), ("/info", {"GET", "HEAD"})],
)
def test_options_lists_the_methods(path: str, allowed: set[str]) -> None:
    answer = serve().simulate_options(path)
    assert answer.status_code == 200
    assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed


@pytest.mark.parametrize("path", ["/info", f"/status/{ID}", "/health/live", "/health/ready"])
def test_head_is_answered_like_get_without_a_body(tmp_path: Path, path: str) -> None:
    (tmp_path / "info.txt").write_text("information")
    client = serve(info=tmp_path / "info.txt")
    head, get = client.simulate_head(path), client.simulate_get(path)
    assert (head.status_code, head.headers, head.text) == (get.status_code, get.headers, "")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/predictions", "/status", "/status/a/b", "/info/", "/%00", "/admin.php", "/☃"])
def test_an_unknown_path_is_404(method: str, path: str) -> None:
    assert problem(serve().simulate_request(method, path))[0] == 404


def test_an_error_has_its_own_content_type_where_the_client_names_it() -> None:
    headers = {"Accept": "application/problem+json"}
    for answer in (
        serve().simulate_post("/predict", body="{", headers=headers),
        serve().simulate_get("/nowhere", headers=headers),
        serve().simulate_get("/predict", headers=headers),
        serve(Refuses(QueueFull())).simulate_post("/predict", json={}, headers=headers),
        serve(API_KEYS="one").simulate_get(f"/status/{ID}", headers=headers),
    ):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["status"] == answer.status_code


def test_a_result_is_json_whatever_the_client_accepts() -> None:
    assert serve().simulate_post("/predict", json={}, headers={"Accept": "text/html"}).status_code == 200


# API keys


@pytest.mark.parametrize("authorization", ["Bearer one", "Bearer two", "bearer one", "BEARER   two"])
def test_with_api_keys_a_request_with_one_of_them_is_answered(authorization: str) -> None:
    client = serve(API_KEYS="one,two")
    headers = {"Authorization": authorization}
    assert client.simulate_post("/predict", json={}, headers=headers).status_code == 200
    assert client.simulate_get(f"/status/{ID}", headers=headers).status_code == 200
    assert client.simulate_delete(f"/status/{ID}", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer three",
        "Bearer on",
        "Bearer onee",
        "Bearer one,two",
        "Basic one",
        "one",
        "Bearer ö",
    ],
)
def test_with_api_keys_a_request_without_one_is_401(authorization: str | None) -> None:
    queue = Queue()
    client = serve(queue, API_KEYS="one,two")
    headers = {} if authorization is None else {"Authorization": authorization}
    for answer in (
        client.simulate_post("/predict", json={}, headers=headers),
        client.simulate_get(f"/status/{ID}", headers=headers),
        client.simulate_delete(f"/status/{ID}", headers=headers),
    ):
        assert problem(answer)[:2] == (401, "Not authorised")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert queue.submitted == []


@pytest.mark.parametrize("path", ["//predict", "///predict", "/predict/", "/%70redict", "/PREDICT"])
def test_no_other_spelling_of_predict_bypasses_the_keys(path: str) -> None:
    queue = Queue()
    answer = serve(queue, API_KEYS="one").simulate_post(path, json={})
    assert answer.status_code in (401, 404)
    assert queue.submitted == []


@pytest.mark.parametrize("path", [f"//status/{ID}", f"///status/{ID}", f"/status//{ID}", f"/%73tatus/{ID}"])
def test_no_other_spelling_of_status_bypasses_the_keys(path: str) -> None:
    assert serve(Queue(DONE), API_KEYS="one").simulate_get(path).status_code in (401, 404)


def test_health_and_info_need_no_key(tmp_path: Path) -> None:
    (tmp_path / "info.txt").write_text("information")
    client = serve(info=tmp_path / "info.txt", API_KEYS="one")
    assert client.simulate_get("/info").status_code == 200
    assert client.simulate_get("/health/live").status_code == 200
    assert client.simulate_get("/health/ready").status_code == 503


def test_without_api_keys_none_is_needed() -> None:
    headers = {"Authorization": "Bearer whatever"}
    assert serve().simulate_post("/predict", json={}, headers=headers).status_code == 200
    assert serve().simulate_post("/predict", json={}).status_code == 200


# Over the real queue


def without_times(answer: Any) -> dict[str, Any]:
    """An answer of /status without what differs from run to run."""
    return {name: value for name, value in answer.items() if name not in ("times", "seconds")}


def test_an_accepted_task_is_found_and_ends(open_queue: OpenQueue, broker: Redis, redis: Redis) -> None:
    client = serve(open_queue())
    answer = client.simulate_post("/predict", json={"callback_uri": "http://receiver.example", "data": {}})
    status = answer.headers["location"]
    task_id = answer.json["data"]["task_id"]
    assert status == f"/status/{task_id}"
    assert redis.llen(keys.QUEUE) == 1
    callback = {"state": "PENDING", "attempts": 0, "last_error": None}
    waiting = {"status": "PENDING", "result": None, "position": 1, "callback": callback}
    assert without_times(client.simulate_get(status).json) == waiting
    TaskStore(broker).complete(task_id, "SUCCESS", {"a123": "Iris-setosa"}, ttl=60)
    ended = {"status": "SUCCESS", "result": {"a123": "Iris-setosa"}, "callback": callback}
    assert without_times(client.simulate_get(status).json) == ended
    assert redis.zrange(keys.callbacks(endpoint_of("http://receiver.example")), 0, -1) == [task_id]


def test_a_synchronous_request_is_answered_when_its_task_ends(open_queue: OpenQueue, broker: Redis) -> None:
    client = serve(open_queue(RESPONSE_MODE="sync", RESPONSE_TIMEOUT="30"))
    answers: list[Result] = []
    asking = threading.Thread(target=lambda: answers.append(client.simulate_post("/predict", json={"x": 1})))
    asking.start()
    message = until(lambda: broker.lindex(keys.QUEUE, 0), what="the task on the queue")
    assert answers == []
    TaskStore(broker).complete(json.loads(str(message))["headers"]["id"], "SUCCESS", {"a123": "Iris-setosa"}, ttl=60)
    asking.join(30)
    assert [(answer.status_code, answer.json) for answer in answers] == [(200, {"a123": "Iris-setosa"})]


def test_a_synchronous_wait_runs_out_and_the_task_goes_on(open_queue: OpenQueue, redis: Redis) -> None:
    client = serve(open_queue(RESPONSE_MODE="sync", RESPONSE_TIMEOUT="0.1"))
    answer = client.simulate_post("/predict", json={"x": 1})
    assert answer.status_code == 202
    assert client.simulate_get(answer.headers["location"]).json["status"] == "PENDING"
    assert redis.llen(keys.QUEUE) == 1


def test_lone_surrogates_and_control_characters_are_accepted(open_queue: OpenQueue, redis: Redis) -> None:
    client = serve(open_queue())
    answer = client.simulate_post("/predict", body=b'{"x": "\\ud800 \\u0000 \xe2\x98\x83"}')
    assert answer.status_code == 200
    assert redis.llen(keys.QUEUE) == 1


def test_an_accepted_task_of_any_depth_is_on_the_queue(open_queue: OpenQueue, redis: Redis) -> None:
    """Whatever the api can parse it can also enqueue, or it answers with an error."""
    client = serve(open_queue())
    statuses = [
        client.simulate_post("/predict", body="[" * depth + "]" * depth).status_code for depth in range(100, 1200, 20)
    ]
    assert set(statuses) <= {200, 400, 500}
    assert redis.llen(keys.QUEUE) == statuses.count(200)


def test_a_repeated_request_has_the_id_and_the_result_of_the_first(
    open_queue: OpenQueue, broker: Redis, redis: Redis
) -> None:
    client = serve(open_queue(QUEUE_LIMIT="1"))
    first = post(client, b'{"a": 1, "b": 2}', key="a-key")
    again = post(client, b'{"b":2,"a":1}', key="a-key")
    assert (again.status_code, again.json, again.headers["location"]) == (200, first.json, first.headers["location"])
    assert problem(post(client, b'{"a": 1}', key="a-key"))[:2] == (422, "Idempotency-Key used before")
    assert problem(post(client, b'{"a": 1}', key="another-key"))[0] == 503
    TaskStore(broker).complete(first.json["data"]["task_id"], "SUCCESS", {"a123": "Iris-setosa"}, ttl=60)
    waited = post(client, b'{"b":2,"a":1}', key="a-key", Prefer="wait=30")
    assert (waited.status_code, waited.json) == (200, {"a123": "Iris-setosa"})
    assert redis.llen(keys.QUEUE) == 1
    assert [key for key in redis.scan_iter() if "a-key" in key] == []


def test_a_redis_that_loads_its_data_is_503(loading: Redis, read_settings: Callable[..., Settings]) -> None:
    client = serve(TaskQueue(loading, read_settings()))
    for answer in (
        client.simulate_post("/predict", json={}),
        client.simulate_get(f"/status/{ID}"),
        client.simulate_delete(f"/status/{ID}"),
    ):
        assert problem(answer) == (503, "Service unavailable", "The queue cannot be reached. Try again.")
        assert int(answer.headers["retry-after"]) > 0
    assert client.simulate_get("/health/ready").json == {"ready": False, "broker": "DOWN", "workers": []}


@pytest.mark.usefixtures("read_only")
def test_a_redis_that_takes_no_writes_is_503_and_can_be_read(open_queue: OpenQueue, redis: Redis) -> None:
    client = serve(open_queue())
    for answer in (client.simulate_post("/predict", json={}), client.simulate_delete(f"/status/{ID}")):
        assert problem(answer)[:2] == (503, "Service unavailable")
        assert int(answer.headers["retry-after"]) > 0
    assert client.simulate_get(f"/status/{ID}").status_code == 404


def report_failure(redis: Redis) -> None:
    """Report a worker that could not load its model."""
    registry = WorkerRegistry(redis)
    registry.report_process("worker@iris", 1, WorkerState.ERROR, "ValueError: no model", hint="Mend it.")
    registry.heartbeat("worker@iris", up=[], loading=[1])


def test_a_request_that_waits_is_told_that_no_worker_can_run_it(open_queue: OpenQueue, redis: Redis) -> None:
    report_failure(redis)
    client = serve(open_queue())
    answer = client.simulate_post("/predict", json={}, headers={"Prefer": "wait=30"})
    description = "No worker can run tasks: ValueError: no model. This request was not accepted."
    assert problem(answer) == (503, "Service unavailable", description)
    assert int(answer.headers["retry-after"]) > 0
    assert redis.llen(keys.QUEUE) == 0
    assert redis.keys("denzel:task:*") == []


def test_a_request_that_is_sent_again_gets_its_result_without_a_worker(
    open_queue: OpenQueue, redis: Redis, records: TaskStore
) -> None:
    client = serve(open_queue())
    again = {"Idempotency-Key": "again"}
    task_id = client.simulate_post("/predict", json={}, headers=again).json["data"]["task_id"]
    report_failure(redis)
    answer = client.simulate_post("/predict", json={}, headers={**again, "Prefer": "wait=0.1"})
    assert (answer.status_code, answer.json["data"]["task_id"]) == (202, task_id), "it has not ended"
    records.complete(task_id, "SUCCESS", {"a": 1}, ttl=60)
    answer = client.simulate_post("/predict", json={}, headers={**again, "Prefer": "wait=30"})
    assert (answer.status_code, answer.json) == (200, {"a": 1})
    new = {"Idempotency-Key": "new", "Prefer": "wait=30"}
    assert client.simulate_post("/predict", json={}, headers=new).status_code == 503
    assert client.simulate_post("/predict", json={"x": 1}, headers={**again, "Prefer": "wait=30"}).status_code == 422
    assert redis.llen(keys.QUEUE) == 1


@pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}, {"Prefer": "wait=0"}], ids=repr)
def test_a_request_that_does_not_wait_is_accepted_without_a_worker(
    open_queue: OpenQueue, redis: Redis, headers: dict[str, str]
) -> None:
    report_failure(redis)
    answer = serve(open_queue()).simulate_post("/predict", json={}, headers=headers)
    assert answer.status_code in (200, 202)
    assert redis.llen(keys.QUEUE) == 1


def test_a_bad_request_is_refused_before_workers_are_asked_for(open_queue: OpenQueue, redis: Redis) -> None:
    report_failure(redis)
    answer = serve(open_queue()).simulate_post("/predict", body="{", headers={"Prefer": "wait=30"})
    assert answer.status_code == 400
