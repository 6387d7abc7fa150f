"""HTTP resources of the API. See docs/endpoints.md of denzel for the contract."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import falcon
import falcon.asgi

from app.serving.api import problems
from app.serving.api.body import parse_json, read_body
from app.serving.api.idempotency import read_idempotency
from app.serving.api.prefer import read_preferences
from app.serving.callback_uri import check_uri, remembered
from app.serving.callbacks.egress import EgressPolicy
from app.serving.errors import message
from app.serving.json_values import NotJson, TooDeep, json_values
from app.serving.queue.client import MAX_WAIT, BrokerAway, MemoryFull, Overloaded, SubmitResult, TaskQueue, TaskRequest
from app.serving.queue.waiting import Preferences
from app.serving.settings import Settings
from app.serving.store.tasks import REVOKED, SUCCESS, Idempotency, KeyReused, QueueFull, TaskRecord
from app.serving.store.workers import WorkerState

log = logging.getLogger(__name__)

VerifyInput = Callable[[Any], Any]


class Info:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer with the current text of info.txt."""
        try:
            resp.data = self._path.read_bytes()
        except OSError as error:
            raise falcon.HTTPNotFound(
                title="No information", description=f"{self._path} cannot be read: {error.strerror}."
            ) from error
        resp.content_type = "text/plain; charset=utf-8"

    on_head = on_get


class Predict:
    needs_key = True

    def __init__(self, queue: TaskQueue, verify_input: VerifyInput, settings: Settings) -> None:
        self._queue = queue
        self._verify_input = verify_input
        self._body_limit = settings.body_limit
        egress = EgressPolicy.of(settings)
        self._check_callback = remembered(lambda uri: egress.check_literal(check_uri(uri)))

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Accept a task; answer with its id, or with its result where the request or the deployment waits for it."""
        await self._reject_own_callback(req)
        preferences = read_preferences(req.get_header("Prefer"))
        body = await read_body(req, self._body_limit)
        key, client = req.get_header("Idempotency-Key"), req.context.client
        accepted = await self._accept(lambda: self._prepare(body, key, client), preferences, len(body))
        if preferences.wait is not None:
            _grant_wait(resp, preferences.wait)
        elif preferences.respond_async:
            resp.set_header("Preference-Applied", "respond-async")
        if not accepted.waited:
            _answer_accepted(resp, accepted.task_id, falcon.HTTP_200)
        elif accepted.record is None or not accepted.record.is_finished:
            _answer_accepted(resp, accepted.task_id, falcon.HTTP_202)
        elif accepted.record.status == SUCCESS:
            _answer(resp, _result_json(accepted.record))
        else:
            raise problems.Problem(
                500, title="Prediction failed", description=_failure_text(accepted.record), task_id=accepted.task_id
            )

    async def _reject_own_callback(self, req: falcon.asgi.Request) -> None:
        """Raise 403 for a callback of this project, at whichever address it was sent: it would loop."""
        webhook_id = req.get_header("webhook-id")
        if webhook_id and await self._queue.find(webhook_id.partition(".")[0]) is not None:
            raise falcon.HTTPForbidden(
                title="Own callback", description="This is a callback of this project; it makes no task here."
            )

    def _prepare(self, body: bytes, key: str | None, client: str) -> TaskRequest:
        """Parse and verify a request."""
        json_data = parse_json(body)
        # verify_input may change the body.
        callback_uri = self._callback_uri(json_data)
        idempotency = _idempotency(key, client, json_data)
        return TaskRequest(verified=self._verify(json_data), callback_uri=callback_uri, idempotency=idempotency)

    def _callback_uri(self, json_data: Any) -> str | None:
        uri = json_data.get("callback_uri") if isinstance(json_data, dict) else None
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
        except (Exception, SystemExit) as error:
            raise _bad_input(message(error) or type(error).__name__) from error
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
        except QueueFull:
            raise problems.unavailable("The queue is full; nothing was accepted. Try again later.") from None
        except MemoryFull:
            raise problems.unavailable("The queue's memory is full; nothing was accepted. Try again later.") from None
        except KeyReused:
            raise falcon.HTTPUnprocessableEntity(
                title="Idempotency-Key used before",
                description="This Idempotency-Key came with another body before; nothing was accepted.",
            ) from None


class Status:
    needs_key = True

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        """Answer with a task's state and result; with `Prefer: wait=N`, once it has ended or N seconds have passed."""
        if not task_id:
            await problems.unknown_path(req, resp)
        wait = read_preferences(req.get_header("Prefer")).wait
        if wait is None:
            record = await self._queue.find(task_id)
        else:
            record = await self._queue.wait(task_id, _grant_wait(resp, wait))
        if record is None:
            raise _unknown_task(task_id)
        _answer(resp, _status_json(record))

    on_head = on_get

    async def on_delete(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        """Cancel the task; 409 when it has ended."""
        if not task_id:
            await problems.unknown_path(req, resp)
        status = await self._queue.cancel(task_id)
        if status is None:
            raise _unknown_task(task_id)
        if status != REVOKED:
            raise falcon.HTTPConflict(
                title="Task has ended", description=f"The task {task_id} cannot be cancelled: it has ended as {status}."
            )
        _answer_json(resp, {"status": status})


class Live:
    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer 200 while this process runs."""
        _answer_json(resp, {"live": True})

    on_head = on_get


class Ready:
    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer 200 when Redis answers and a worker has loaded its model, else 503; the body shows what is missing."""
        try:
            workers = await self._queue.workers()
            broker = "UP"
        except BrokerAway as error:
            log.warning("the broker cannot be reached: %s", error)
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
        super().__init__(title="Pipeline error", description=f"pipeline.py cannot be imported: {cause}")


def _idempotency(key: str | None, client: str, json_data: Any) -> Idempotency | None:
    try:
        return read_idempotency(key, client, json_data)
    except ValueError as error:
        raise falcon.HTTPBadRequest(title="Bad Idempotency-Key", description=f"{error}.") from error
    except RecursionError as error:
        raise _bad_input("the body is nested too deeply") from error


def _bad_input(description: str) -> falcon.HTTPBadRequest:
    return falcon.HTTPBadRequest(title="Bad input format", description=description)


def _grant_wait(resp: falcon.asgi.Response, wait: int) -> int:
    """The seconds to wait of those that a request asks for, also set as `Preference-Applied` (RFC 7240)."""
    granted = min(wait, MAX_WAIT)
    resp.set_header("Preference-Applied", f"wait={granted}")
    return granted


def _unknown_task(task_id: str) -> falcon.HTTPNotFound:
    return falcon.HTTPNotFound(
        title="Unknown task", description=f"No task has the id {task_id}, or its result has expired."
    )


def _status_json(record: TaskRecord) -> str:
    """The body of GET /status. It holds the result as it is stored, not parsed."""
    members = [f'"status": {json.dumps(record.status)}, "result": {_result_json(record)}']
    if record.position is not None:
        members.append(f'"position": {record.position}')
    if record.callback is not None:
        members.append(f'"callback": {json.dumps(asdict(record.callback))}')
    return f"{{{', '.join(members)}}}"


def _result_json(record: TaskRecord) -> str:
    return record.text if record.text is not None else json.dumps(record.result)


def _failure_text(record: TaskRecord) -> str:
    """The error of a failed task, on one line."""
    result = json.loads(_result_json(record))
    arguments = result.get("args", []) if isinstance(result, dict) else []
    return ", ".join(str(argument) for argument in arguments) or record.status


def _answer_accepted(resp: falcon.asgi.Response, task_id: str, status: str) -> None:
    # An id needs no escapes.
    _answer(resp, f'{{"status": "success", "data": {{"task_id": "{task_id}"}}}}')
    resp.status = status
    resp.set_header("Location", f"/status/{task_id}")


def _answer_json(resp: falcon.asgi.Response, value: Any) -> None:
    _answer(resp, json.dumps(value))


def _answer(resp: falcon.asgi.Response, text: str) -> None:
    resp.text = text
    resp.content_type = "application/json; charset=utf-8"
