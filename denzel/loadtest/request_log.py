"""Request log of a run: what became of each request, recorded as it happens. All times are of one clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from denzel.loadtest import preflight
from denzel.loadtest.api import parse_json, task_id_of
from denzel.loadtest.client import HttpResponse
from denzel.loadtest.receiver import Callback
from denzel.services import FAILURE, REVOKED, SUCCESS, TERMINAL_STATES

NO_CONNECTION = "no connection"
_NOT_IN_TIME = "202"
TASK_FAILED = "task failed"


@dataclass(slots=True)
class Request:
    """One request: when it was due, and what is known of it."""

    number: int
    scheduled: float
    is_answered: bool = False
    accepted: float | None = None
    #: Empty where the response was the result, or while there is none.
    task_id: str = ""
    #: When its result came, in the response or in the callback.
    completed: float | None = None
    in_flight: bool = False
    is_cancelled: bool = False
    awaits_callback: bool = False
    callbacks: tuple[Callback, ...] = ()
    #: Set by the first of them, for who waits for it.
    called_back: asyncio.Event | None = None
    # Its state in the latest GET /status, and when it was first seen to have ended there.
    status: str = ""
    reason: str = ""
    ended: float | None = None
    #: Its callback is no longer pending.
    is_settled: bool = False
    #: There is no such task.
    is_gone: bool = False

    @property
    def has_run(self) -> bool:
        """True when GET /status has shown a result or a failure."""
        return self.ended is not None and self.status in (SUCCESS, FAILURE)

    @property
    def own_callbacks(self) -> list[Callback]:
        """The callbacks of its task, without those of another one that it was made into."""
        return [callback for callback in self.callbacks if callback.task_id == self.task_id]


class RequestLog:
    """Requests by their numbers, made of those in `bodies` in turn; one with a `callback_uri` asks for a callback.

    `synchronous` is the expected response mode.
    """

    def __init__(self, bodies: Sequence[Mapping[str, Any]], *, synchronous: bool) -> None:
        self.synchronous = synchronous
        self._with_callback = ["callback_uri" in body for body in bodies]
        self.requests: list[Request] = []
        #: Those that still await a response, the end of their task or a callback.
        self.outstanding: dict[int, Request] = {}
        #: Kinds of errors: how often each occurred, and its first description.
        self.errors: Counter[str] = Counter()
        self.first_errors: dict[str, str] = {}

    def begin(self, scheduled: float) -> Request:
        """A request that is to be sent, and was scheduled for this time."""
        request = Request(len(self.requests), scheduled)
        self.requests.append(request)
        self.outstanding[request.number] = request
        return request

    @property
    def accepted(self) -> list[Request]:
        return [request for request in self.requests if request.accepted is not None]

    @property
    def failed(self) -> int:
        return self.errors[TASK_FAILED]

    @property
    def refused(self) -> dict[str, int]:
        """The number of attempts that were not accepted, by the status of the response, or NO_CONNECTION."""
        return {kind: count for kind, count in self.errors.items() if kind not in (_NOT_IN_TIME, TASK_FAILED)}

    @property
    def unfinished(self) -> int:
        """The number of requests without a result, which comes with the response or else with the callback.

        A task that goes on after a 202 is one, too.
        """
        return sum(
            not request.is_answered or request.in_flight or not self.synchronous
            for request in self.outstanding.values()
        )

    def record_response(self, request: Request, response: HttpResponse) -> bool:
        """Record a response; true when the request was accepted."""
        task_id = task_id_of(response)
        if response.status == 200 and not task_id:
            self._accept(request, response.when)
            request.completed = response.when
        elif response.status in (200, 202) and task_id:
            self._accept(request, response.when, task_id)
            if self.synchronous:
                self._record_error(_NOT_IN_TIME, "the result was not ready in time")
        else:
            content = parse_json(response.body)
            has_failed = isinstance(content, dict) and "task_id" in content
            if has_failed:
                self._accept(request, response.when)
            description = preflight.description(response.status, content)
            self._record_error(TASK_FAILED if has_failed else str(response.status), description)
        request.is_answered = True
        self._settle(request)
        return request.accepted is not None

    def record_no_response(self, request: Request, kind: str, reason: str) -> None:
        self._record_error(kind, reason)
        request.is_answered = True
        self._settle(request)

    def record_callback(self, callback: Callback, body: bytes) -> None:
        """Record a callback and what its body says; that of a repeated one does not count."""
        if callback.number >= len(self.requests):
            return
        request = self.requests[callback.number]
        request.callbacks += (callback,)
        if len(request.callbacks) > 1:
            return
        if request.called_back is not None:
            request.called_back.set()
        request.in_flight = request.awaits_callback = False
        failure = parse_failure(body, callback.task_id)
        if failure is None or failure["status"] != REVOKED:
            # It ended before it was cancelled, whatever the response to the cancel was.
            request.is_cancelled = False
        if not self.synchronous and not request.is_cancelled:
            if failure is None:
                request.completed = callback.when
            else:
                self._record_error(TASK_FAILED, preflight.reason(failure))
        self._settle(request)

    def record_task(self, request: Request, task: Mapping[str, Any] | None, when: float) -> None:
        """Record what GET /status shows of a request's task, None for no such task."""
        if task is None:
            request.is_gone, request.in_flight = True, False
        else:
            request.status = str(task.get("status"))
        if task is not None and request.status in TERMINAL_STATES:
            request.in_flight = False
            request.reason = preflight.reason(task)
            request.ended = when if request.ended is None else request.ended
            # Without a `callback` in the answer, only the receiver can show whether it arrived.
            request.is_settled = (task.get("callback") or {}).get("state") != "PENDING"
        self._settle(request)

    def record_cancelled(self, request: Request, *, ended_before: bool) -> None:
        """Record the answer to a cancel. Where a callback is to come, that shows the end."""
        request.is_cancelled = request.is_cancelled and not ended_before
        request.in_flight = request.in_flight and request.awaits_callback
        self._settle(request)

    def _accept(self, request: Request, when: float, task_id: str = "") -> None:
        request.accepted = when
        request.task_id = task_id
        # A callback may arrive before the response.
        if not request.callbacks:
            request.in_flight = bool(task_id)
            request.awaits_callback = self._with_callback[request.number % len(self._with_callback)]

    def _settle(self, request: Request) -> None:
        if request.is_answered and not request.in_flight and not request.awaits_callback:
            self.outstanding.pop(request.number, None)

    def _record_error(self, kind: str, description: str) -> None:
        self.errors[kind] += 1
        self.first_errors.setdefault(kind, description)


def parse_failure(body: bytes, task_id: str) -> Mapping[str, Any] | None:
    """The failure in a callback, with its `status`, FAILURE or REVOKED, and its `result`; None when it has a result.

    A result may look similar, but has no `task_id` of the task.
    """
    if b'"task_id"' not in body:
        return None
    content = parse_json(body)
    if not isinstance(content, dict) or content.get("status") not in (FAILURE, REVOKED):
        return None
    # The callback of a replayed task has an id of its own, which begins with the task's.
    named = str(content.get("task_id", ""))
    return content if named and task_id.startswith(named) else None
