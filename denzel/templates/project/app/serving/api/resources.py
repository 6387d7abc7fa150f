"""HTTP resources of the API, but for predict.py. See docs/endpoints.md of denzel for the contract."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import falcon
import falcon.asgi

from app.serving.api import problems
from app.serving.api.prefer import applied_wait, read_preferences
from app.serving.api.scope import ON_SHUTDOWN
from app.serving.errors import failure_members
from app.serving.json_values import json_text
from app.serving.queue.client import BrokerAway, TaskQueue
from app.serving.store.tasks import FAILURE, REVOKED, TaskRecord
from app.serving.store.times import iso
from app.serving.store.workers import WorkerState

log = logging.getLogger(__name__)


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
            # RFC 7240
            resp.set_header("Preference-Applied", applied_wait(wait))
            req.scope[ON_SHUTDOWN] = self._queue.stop_waiting
            record = await self._queue.wait(task_id, wait)
        if record is None:
            raise unknown_task(task_id)
        _answer(resp, status_json(record))

    on_head = on_get

    async def on_delete(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        """Cancel the task; 409 when it has ended."""
        if not task_id:
            await problems.unknown_path(req, resp)
        status = await self._queue.cancel(task_id)
        if status is None:
            raise unknown_task(task_id)
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
    def __init__(self, queue: TaskQueue, fault: str) -> None:
        self._queue = queue
        self._fault = fault

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer 200 when Redis answers, a worker has loaded its model and the pipeline can be used here, else 503.

        The body shows what is missing.
        """
        try:
            workers = await self._queue.workers()
            broker = "UP"
        except BrokerAway as error:
            log.warning("the broker cannot be reached: %s", error)
            workers = []
            broker = "DOWN"
        ready = not self._fault and any(worker.state is WorkerState.UP for worker in workers)
        _answer_json(
            resp,
            {
                "ready": ready,
                "broker": broker,
                **({"pipeline": self._fault} if self._fault else {}),
                "workers": [
                    {"name": worker.name, "state": worker.state.value, "cause": worker.cause} for worker in workers
                ],
            },
        )
        if not ready:
            resp.status = falcon.HTTP_503
            resp.set_header("Retry-After", str(problems.RETRY_AFTER))

    on_head = on_get


def unknown_task(task_id: str) -> falcon.HTTPNotFound:
    """The answer for an id that was never accepted, or has expired."""
    return falcon.HTTPNotFound(
        title="Unknown task", description=f"No task has the id {task_id}, or its result has expired."
    )


def status_json(record: TaskRecord) -> str:
    """The body of GET /status. It holds the result as it is stored, not parsed."""
    result = result_json(record)
    members = [
        f'"status": {json.dumps(record.status)}',
        failure_members(result) if record.status == FAILURE else f'"result": {result}',
    ]
    if record.position is not None:
        members.append(f'"position": {record.position}')
    if record.eta is not None:
        members.append(f'"eta_seconds": {_rounded(record.eta)}')
    if record.progress is not None:
        members.append(f'"progress": {record.progress}')
    times = record.times
    if times.accepted is not None:
        shown = {"accepted": iso(times.accepted), "started": iso(times.started), "ended": iso(times.ended)}
        members.append(f'"times": {json.dumps(shown)}')
        spent = {"waited": _rounded(times.waited), "ran": _rounded(times.ran)}
        members.append(f'"seconds": {json.dumps(spent)}')
    if record.callback is not None:
        members.append(f'"callback": {json_text(asdict(record.callback))}')
    return f"{{{', '.join(members)}}}"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def result_json(record: TaskRecord) -> str:
    """The result of a task, in JSON."""
    return record.text if record.text is not None else json.dumps(record.result)


def _answer_json(resp: falcon.asgi.Response, value: Any) -> None:
    _answer(resp, json_text(value))


def _answer(resp: falcon.asgi.Response, text: str) -> None:
    resp.text = text
    resp.content_type = "application/json; charset=utf-8"
