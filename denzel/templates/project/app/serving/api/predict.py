"""POST /predict: the api's hot path, as an ASGI application of its own.

Falcon's way through middleware, router, request and response takes as long as all else that is done for a request. So
it gets what is refused alone, and answers that as any other error.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import falcon
import falcon.asgi

from app.serving.api import problems
from app.serving.api.auth import Authorization
from app.serving.api.bodies.body import Receive, parse_json, read_body
from app.serving.api.bodies.content_type import CALLBACK_URI, Content, read_content
from app.serving.api.events import accepts_events, open_stream, send_events, too_many_streams
from app.serving.api.idempotency import read_idempotency
from app.serving.api.prefer import applied_wait, read_preferences
from app.serving.api.resources import result_json
from app.serving.api.scope import ERROR, ON_SHUTDOWN
from app.serving.api.trace import read_trace
from app.serving.callback_uri import check_uri, remembered
from app.serving.callbacks.egress import EgressPolicy
from app.serving.errors import BAD_INPUT, explain, explanation
from app.serving.json_values import NotJson, TooDeep, json_values
from app.serving.queue.client import BrokerAway, MemoryFull, Overloaded, TaskQueue
from app.serving.queue.streams import TaskStream
from app.serving.queue.submission import SubmitResult, TaskRequest
from app.serving.queue.waiting import Preferences
from app.serving.queue.worker_watch import NoWorker
from app.serving.settings import Settings
from app.serving.store.tasks import SUCCESS, Idempotency, KeyReused, QueueFull, TaskRecord

log = logging.getLogger(__name__)

VerifyInput = Callable[[Any], Any]

#: An answer: status, headers, body.
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]

# Headers that are no lists: the last one counts.
_SINGLE = frozenset((b"authorization", b"content-length", b"content-type"))

# The preferences of a request that gets its task's events.
_FOLLOWS = Preferences(respond_async=True)

_JSON = (b"content-type", b"application/json; charset=utf-8")


class Predict:
    """An ASGI application for POST /predict; and Falcon's resource at that path, which has the errors of the former."""

    needs_key = True

    def __init__(
        self, queue: TaskQueue, verify_input: VerifyInput, authorization: Authorization, settings: Settings
    ) -> None:
        self._queue = queue
        self._verify_input = verify_input
        self._authorization = authorization
        self._body_limit = settings.body_limit
        egress = EgressPolicy.of(settings)
        self._check_callback = remembered(lambda uri: egress.check_literal(check_uri(uri)))

    def before(self, app: Any) -> Any:
        """An ASGI application that answers POST /predict, and leaves all other requests and all errors to `app`."""

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["path"] != "/predict" or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            named = _by_name(scope["headers"])
            follows = accepts_events(named.get(b"accept"))
            scope[ON_SHUTDOWN] = self._queue.stop_waiting
            try:
                if follows and self._queue.streams.is_full:
                    raise too_many_streams()
                query = scope.get("query_string", b"")
                status, headers, body = await self._answer(named, query, receive, follows=follows)
                stream = await self._stream(headers) if follows else None
            except Exception as error:  # noqa: BLE001 (raised by `on_post`)
                scope[ERROR] = error
                # By the specification they may be read once.
                scope["headers"] = [(name, value.encode("latin1")) for name, value in named.items()]
                await app(scope, _receive_nothing, send)
                # The frames of its traceback hold the scope, and the body: a circle, which would be kept for a while.
                del scope[ERROR]
                return
            if stream is not None:
                await send_events(stream, scope, receive, send, headers)
                return
            headers += (_JSON, (b"content-length", b"%d" % len(body)))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        return serve

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Raise the request's error."""
        raise req.scope[ERROR]

    async def _stream(self, headers: Sequence[tuple[bytes, bytes]]) -> TaskStream | None:
        """The events of the task that these headers of an answer name; None when Redis is away by now, as a client that
        got that error would send its request again.
        """
        task_id = dict(headers)[b"location"].decode().rpartition("/")[2]
        try:
            return await open_stream(self._queue, task_id)
        except (BrokerAway, falcon.HTTPError) as error:
            log.warning("task %s is accepted, but cannot be followed: %s", task_id, error)
            return None

    async def _answer(
        self, headers: dict[bytes, str], query: bytes, receive: Receive, *, follows: bool = False
    ) -> Answer:
        """Accept a task; answer with its id, or with its result where the request or the deployment waits for it.

        One that `follows` its task does not wait.
        """
        client = self._authorization.client(headers.get(b"authorization"))
        await self._reject_own_callback(headers.get(b"webhook-id"))
        preferences = _FOLLOWS if follows else read_preferences(headers.get(b"prefer"))
        content = read_content(headers, query)
        body = await read_body(_length(headers), receive, self._body_limit)
        key = headers.get(b"idempotency-key")
        trace = read_trace(headers)
        # A body that is compressed, or a form, may take long however short it is.
        size = len(body) if content is None else max(len(body), self._body_limit)
        accepted = await self._accept(lambda: self._prepare(body, content, key, client, trace), preferences, size)
        answer: list[tuple[bytes, bytes]] = []
        if preferences.wait is not None:
            answer.append((b"preference-applied", applied_wait(preferences.wait).encode()))
        elif preferences.respond_async and not follows:
            answer.append((b"preference-applied", b"respond-async"))
        record = accepted.record
        if record is None or not record.is_finished:
            answer.append((b"location", b"/status/%s" % accepted.task_id.encode()))
            # An id needs no escapes.
            text = f'{{"status": "success", "data": {{"task_id": "{accepted.task_id}"}}}}'
            return 202 if accepted.waited else 200, answer, text.encode()
        if record.status != SUCCESS:
            raise _failed(record, accepted.task_id)
        return 200, answer, result_json(record).encode()

    async def _reject_own_callback(self, webhook_id: str | None) -> None:
        """Raise 403 for a callback of this project, at whichever address it was sent: it would loop."""
        if webhook_id and await self._queue.find(webhook_id.partition(".")[0]) is not None:
            raise falcon.HTTPForbidden(
                title="Own callback", description="This is a callback of this project; it makes no task here."
            )

    def _prepare(
        self, body: bytes, content: Content | None, key: str | None, client: str, trace: dict[str, str] | None
    ) -> TaskRequest:
        """Parse and verify a request; `content` is None for plain JSON."""
        json_data = parse_json(body) if content is None else content.values(body, self._body_limit)
        # verify_input may change the body.
        callback_uri = self._callback_uri(json_data)
        idempotency = _idempotency(key, client, json_data)
        return TaskRequest(self._verify(json_data), callback_uri, idempotency, trace)

    def _callback_uri(self, json_data: Any) -> str | None:
        uri = json_data.get(CALLBACK_URI) if isinstance(json_data, dict) else None
        if uri is None:
            return None
        try:
            if not isinstance(uri, str):
                check_uri(uri)
            self._check_callback(uri)
        except ValueError as error:
            raise _bad_input(str(error)) from error
        return str(uri)

    def _verify(self, json_data: Any) -> Any:
        try:
            verified = self._verify_input(json_data)
        except PipelineUnusable:
            raise
        except BaseException as error:
            raise _bad_input(explain(error)) from error
        try:
            return json_values(verified, "verify_input(...)")
        except TooDeep as error:
            raise _bad_input(str(error)) from error
        except NotJson as error:
            log.error("verify_input must return JSON values: %s", error)
            raise falcon.HTTPInternalServerError(title="Pipeline error", description=str(error)) from error

    async def _accept(self, prepare: Callable[[], TaskRequest], preferences: Preferences, size: int) -> SubmitResult:
        try:
            return await self._queue.submit(prepare, preferences, size=size)
        except Overloaded:
            raise problems.unavailable("Too many requests wait; nothing was accepted. Try again later.") from None
        except NoWorker as error:
            raise problems.unavailable(f"No worker can run tasks: {error}. This request was not accepted.") from None
        except QueueFull:
            raise problems.unavailable("The queue is full; nothing was accepted. Try again later.") from None
        except MemoryFull:
            raise problems.unavailable("The queue's memory is full; nothing was accepted. Try again later.") from None
        except KeyReused:
            raise falcon.HTTPUnprocessableEntity(
                title="Idempotency-Key used before",
                description="This Idempotency-Key came with another body before; nothing was accepted.",
            ) from None


class PipelineUnusable(falcon.HTTPInternalServerError):
    """The user's pipeline.py cannot be used by the api, for the reason given."""

    def __init__(self, fault: str) -> None:
        super().__init__(title="Pipeline error", description=fault)


def _by_name(raw: list[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """Headers by their name; the values of one that came twice are a list (RFC 9110, section 5.3), as in Falcon."""
    headers: dict[bytes, str] = {}
    for name, value in raw:
        text = value.decode("latin1")
        headers[name] = f"{headers[name]},{text}" if name in headers and name not in _SINGLE else text
    return headers


def _length(headers: dict[bytes, str]) -> int | None:
    """The Content-Length, which the server has checked."""
    length = headers.get(b"content-length")
    return int(length) if length else None


async def _receive_nothing() -> dict[str, Any]:
    """The event for an application that need not read what was received."""
    return {"type": "http.request", "body": b"", "more_body": False}


def _idempotency(key: str | None, client: str, json_data: Any) -> Idempotency | None:
    try:
        return read_idempotency(key, client, json_data)
    except ValueError as error:
        raise falcon.HTTPBadRequest(title="Bad Idempotency-Key", description=f"{error}.") from error
    except RecursionError as error:
        raise _bad_input("the body is nested too deeply") from error


def _bad_input(description: str) -> falcon.HTTPBadRequest:
    return falcon.HTTPBadRequest(title="Bad input format", description=description)


def _failed(record: TaskRecord, task_id: str) -> problems.Problem:
    """The answer for a task that has failed: 400 where its input was bad."""
    stored = result_json(record)
    error = json.loads(stored).get("error")
    details = {"error": error} if error else {}
    is_bad_input = bool(error) and error["type"] == BAD_INPUT
    status, title = (400, "Bad input format") if is_bad_input else (500, "Prediction failed")
    return problems.Problem(
        status, title=title, description=explanation(stored) or record.status, task_id=task_id, **details
    )
