"""The HTTP API: what each address answers. See docs/endpoints.md of denzel for the contract."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import falcon

from app import problems
from app.addresses import check_uri
from app.authorization import Authorization
from app.bodies import read_json
from app.idempotency import read_idempotency
from app.json_values import NotJson, TooDeep, json_values
from app.predictor import message
from app.preferences import read_preferences
from app.queue import (
    LONGEST_WAIT,
    REVOKED,
    SUCCESS,
    Accepted,
    BrokerAway,
    KeyReused,
    MemoryFull,
    QueueFull,
    TaskQueue,
    TaskRecord,
    WorkerState,
)
from app.receivers import Policy
from app.records import Idempotency
from app.settings import Settings

log = logging.getLogger(__name__)

VerifyInput = Callable[[Any], Any]
WsgiApp = falcon.App[falcon.Request, falcon.Response]


def create_app(queue: TaskQueue, verify_input: VerifyInput, *, info: Path, settings: Settings) -> WsgiApp:
    """The WSGI application over a queue, the user's verify_input and the file that GET /info shows."""
    app = falcon.App(middleware=[Authorization(settings.api_keys)])
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = falcon.media.JSONHandler()
    app.set_error_serializer(problems.serialize)
    app.add_error_handler(BrokerAway, problems.broker_away)
    app.add_sink(problems.unknown_path)
    predict, status = Predict(queue, verify_input, settings), Status(queue)
    app.add_route("/info", Info(info))
    app.add_route("/predict", predict)
    app.add_route("/status/{task_id}", status)
    for prefix in ("/health", "/v2/health"):
        app.add_route(f"{prefix}/live", Live())
        app.add_route(f"{prefix}/ready", Ready(queue))
    return app


class Info:
    def __init__(self, path: Path) -> None:
        self._path = path

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The text of info.txt as it is now."""
        try:
            resp.data = self._path.read_bytes()
        except OSError as error:
            raise falcon.HTTPNotFound(
                title="No information", description=f"{self._path} can not be read: {error.strerror}."
            ) from error
        resp.content_type = "text/plain; charset=utf-8"

    on_head = on_get


class Predict:
    needs_key = True

    def __init__(self, queue: TaskQueue, verify_input: VerifyInput, settings: Settings) -> None:
        self._queue = queue
        self._verify_input = verify_input
        self._body_limit = settings.body_limit
        self._receivers = Policy.of(settings)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Accept a task; answer with its id, or wait for its result where that is asked for."""
        self._refuse_own_callback(req)
        preferences = read_preferences(req.get_header("Prefer"))
        json_data = read_json(req, self._body_limit)
        # verify_input may change the body.
        callback_uri = _callback_uri(json_data, self._receivers)
        idempotency = _idempotency(req, json_data)
        accepted = self._accept(self._verify(json_data), callback_uri, idempotency)
        if preferences.wait is not None:
            self._answer_in_time(resp, accepted, _granted(resp, preferences.wait))
        elif accepted.response.synchronous and not preferences.respond_async:
            self._answer_in_time(resp, accepted, accepted.response.timeout)
        else:
            if preferences.respond_async:
                resp.set_header("Preference-Applied", "respond-async")
            _answer_accepted(resp, accepted, falcon.HTTP_200)

    def _refuse_own_callback(self, req: falcon.Request) -> None:
        """A callback of this project that came back to it, by whatever address, must not become its next task."""
        webhook_id = req.get_header("webhook-id")
        if webhook_id and self._queue.find(webhook_id.partition(".")[0]) is not None:
            raise falcon.HTTPForbidden(
                title="Own callback", description="This is a callback of this project; it makes no task here."
            )

    def _verify(self, json_data: Any) -> Any:
        try:
            verified = self._verify_input(json_data)
        except PipelineUnusable:
            raise
        except (Exception, SystemExit) as error:
            raise _bad_input(message(error) or type(error).__name__) from error
        try:
            return json_values(verified, "verify_input(...)")
        except TooDeep as error:
            raise _bad_input(str(error)) from error
        except NotJson as error:
            log.error("verify_input must return JSON values: %s", error)
            raise falcon.HTTPInternalServerError(title="Pipeline error", description=str(error)) from error

    def _accept(self, verified: Any, callback_uri: str | None, idempotency: Idempotency | None) -> Accepted:
        try:
            return self._queue.submit(verified, callback_uri=callback_uri, idempotency=idempotency)
        except QueueFull:
            raise problems.unavailable("The queue is full; nothing was accepted. Try again later.") from None
        except MemoryFull:
            raise problems.unavailable("The queue's memory is full; nothing was accepted. Try again later.") from None
        except KeyReused:
            raise falcon.HTTPUnprocessableEntity(
                title="Idempotency-Key used before",
                description="This Idempotency-Key came with another body before; nothing was accepted.",
            ) from None

    def _answer_in_time(self, resp: falcon.Response, accepted: Accepted, timeout: float) -> None:
        try:
            record = self._queue.wait(accepted.task_id, timeout)
        except BrokerAway as error:
            log.warning("task %s is accepted, but cannot be waited for: %s", accepted.task_id, error)
            record = None
        if record is None or not record.ended:
            _answer_accepted(resp, accepted, falcon.HTTP_202)
        elif record.status == SUCCESS:
            _answer_json(resp, record.result)
        else:
            raise problems.Problem(
                500, title="Prediction failed", description=_reason(record), task_id=accepted.task_id
            )


class Status:
    needs_key = True

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue

    def on_get(self, req: falcon.Request, resp: falcon.Response, task_id: str) -> None:
        """The task's state and result; with `Prefer: wait=N`, as soon as it has ended or N seconds have passed."""
        if not task_id:
            problems.unknown_path(req, resp)
        wait = read_preferences(req.get_header("Prefer")).wait
        record = self._queue.find(task_id) if wait is None else self._queue.wait(task_id, _granted(resp, wait))
        if record is None:
            raise _unknown_task(task_id)
        _answer_json(resp, _described(record))

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response, task_id: str) -> None:
        """Cancel the task; 409 when it has ended."""
        if not task_id:
            problems.unknown_path(req, resp)
        status = self._queue.cancel(task_id)
        if status is None:
            raise _unknown_task(task_id)
        if status != REVOKED:
            raise falcon.HTTPConflict(
                title="Task has ended",
                description=f"The task {task_id} can not be cancelled: it has ended as {status}.",
            )
        _answer_json(resp, {"status": status})


class Live:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """200 while this process answers."""
        _answer_json(resp, {"live": True})

    on_head = on_get


class Ready:
    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """200 when the broker answers and a worker has its model loaded, else 503; the body says which is missing."""
        try:
            workers = self._queue.workers()
            broker = "UP"
        except BrokerAway as error:
            log.warning("the broker can not be reached: %s", error)
            workers = []
            broker = "DOWN"
        ready = any(worker.state is WorkerState.UP for worker in workers)
        _answer_json(
            resp,
            {
                "ready": ready,
                "broker": broker,
                "workers": [
                    {"name": worker.name, "state": worker.state.value, "cause": worker.cause} for worker in workers
                ],
            },
        )
        if not ready:
            resp.status = falcon.HTTP_503
            resp.set_header("Retry-After", str(problems.RETRY_AFTER))

    on_head = on_get


class PipelineUnusable(falcon.HTTPInternalServerError):
    """The user's pipeline.py could not be imported by the api."""

    def __init__(self, cause: str) -> None:
        super().__init__(title="Pipeline error", description=f"pipeline.py can not be imported: {cause}")


def _callback_uri(json_data: Any, receivers: Policy) -> str | None:
    if not isinstance(json_data, dict) or json_data.get("callback_uri") is None:
        return None
    try:
        uri = check_uri(json_data["callback_uri"])
        receivers.check_literal(uri)
    except ValueError as error:
        raise _bad_input(str(error)) from error
    return uri


def _idempotency(req: falcon.Request, json_data: Any) -> Idempotency | None:
    try:
        return read_idempotency(req.get_header("Idempotency-Key"), req.context.client, json_data)
    except ValueError as error:
        raise falcon.HTTPBadRequest(title="Bad Idempotency-Key", description=f"{error}.") from error
    except RecursionError as error:
        raise _bad_input("the body is nested too deeply") from error


def _bad_input(description: str) -> falcon.HTTPBadRequest:
    return falcon.HTTPBadRequest(title="Bad input format", description=description)


def _granted(resp: falcon.Response, wait: int) -> int:
    """The seconds that a request may wait of those it asks for; the answer says so."""
    granted = min(wait, LONGEST_WAIT)
    resp.set_header("Preference-Applied", f"wait={granted}")
    return granted


def _unknown_task(task_id: str) -> falcon.HTTPNotFound:
    return falcon.HTTPNotFound(
        title="Unknown task", description=f"No task has the id {task_id}, or its result has expired."
    )


def _described(record: TaskRecord) -> dict[str, Any]:
    """What GET /status says of a task."""
    described = {"status": record.status, "result": record.result}
    if record.position is not None:
        described["position"] = record.position
    if record.callback is not None:
        described["callback"] = asdict(record.callback)
    return described


def _reason(record: TaskRecord) -> str:
    """What a failed task says of itself, on one line."""
    arguments = record.result.get("args", []) if isinstance(record.result, dict) else []
    return ", ".join(str(argument) for argument in arguments) or record.status


def _answer_accepted(resp: falcon.Response, accepted: Accepted, status: str) -> None:
    _answer_json(resp, {"status": "success", "data": {"task_id": accepted.task_id}})
    resp.status = status
    resp.set_header("Location", f"/status/{accepted.task_id}")


def _answer_json(resp: falcon.Response, value: Any) -> None:
    resp.text = json.dumps(value)
    resp.content_type = "application/json; charset=utf-8"
