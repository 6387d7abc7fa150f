"""Request log of a bench: the outcome of each request, recorded as it happens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from denzel.loadtest import preflight
from denzel.loadtest.bench.metrics import ErrorCount
from denzel.loadtest.http.client import HttpResponse
from denzel.loadtest.http.http1 import header
from denzel.services import FAILURE, REVOKED

_NOT_IN_TIME = "202"
_TASK_FAILED = "task failed"


@dataclass(frozen=True, kw_only=True)
class TaskFailure:
    """The callback of a task without a result: its status, FAILURE or REVOKED, and the reason."""

    status: str
    reason: str


class RequestLog:
    """Requests by their numbers, from `first` on; all times are of one clock.

    `has_callback` is true for a request that asks for a callback. `on_callback` is called with the number of each
    request whose callback has arrived. Callbacks for other numbers are ignored.
    """

    def __init__(
        self,
        *,
        synchronous: bool,
        has_callback: Callable[[int], bool],
        on_callback: Callable[[int], None] | None = None,
        first: int = 0,
    ) -> None:
        self.synchronous = synchronous
        self._has_callback = has_callback
        self._on_callback = on_callback
        self._next = first
        self.scheduled: dict[int, float] = {}
        self.accepted: dict[int, float] = {}
        #: Requests that ended with a result, in the response or in the callback.
        self.completed: dict[int, float] = {}
        #: The ids of tasks that are not known to have ended.
        self.in_flight: dict[int, str] = {}
        self.unanswered: set[int] = set()
        self.awaiting_callback: set[int] = set()
        self.called_back: set[int] = set()
        self.cancelled: set[int] = set()
        self._errors: Counter[str] = Counter()
        self._first_errors: dict[str, str] = {}

    def begin(self, scheduled: float) -> int:
        """The number of a request that is sent now, and was scheduled for this time."""
        number = self._next
        self._next += 1
        self.scheduled[number] = scheduled
        self.unanswered.add(number)
        return number

    @property
    def outstanding(self) -> int:
        """The number of requests that still await a response, the end of their task or a callback."""
        return len(self.unanswered) + len(self._pending())

    @property
    def unfinished(self) -> int:
        """The number of requests without a result, which comes with the response or else with the callback.

        A task that goes on after a 202 is one, too.
        """
        return len(self.unanswered) + len(self.in_flight.keys() if self.synchronous else self._pending())

    def record_response(self, number: int, response: HttpResponse) -> bool:
        """Record a response; true when the request was accepted."""
        self.unanswered.discard(number)
        task_id = task_id_of(response)
        if response.status == 200 and not task_id:
            self._accept(number, response.when)
            self.completed[number] = response.when
            return True
        if response.status in (200, 202) and task_id:
            self._accept(number, response.when, task_id)
            if self.synchronous:
                self._record_error(_NOT_IN_TIME, "the result was not ready in time")
            return True
        content = parse_json(response.body)
        description = preflight.description(response.status, content)
        if isinstance(content, dict) and "task_id" in content:
            self._accept(number, response.when)
            self._record_error(_TASK_FAILED, description)
            return True
        self._record_error(str(response.status), description)
        return False

    def record_no_response(self, number: int, kind: str, reason: str) -> None:
        self.unanswered.discard(number)
        self._record_error(kind, reason)

    def record_callback(self, number: int, when: float, task_id: str, body: bytes) -> None:
        """Record a callback; a repeated one counts once."""
        if number not in self.scheduled or number in self.called_back:
            return
        self.called_back.add(number)
        self.awaiting_callback.discard(number)
        self.in_flight.pop(number, None)
        failure = parse_failure(body, task_id)
        if failure is None or failure.status != REVOKED:
            # It ended before it was cancelled, whatever the response to the cancel was.
            self.cancelled.discard(number)
        if not self.synchronous and number not in self.cancelled:
            if failure is None:
                self.completed[number] = when
            else:
                self._record_error(_TASK_FAILED, failure.reason)
        if self._on_callback is not None:
            self._on_callback(number)

    def _accept(self, number: int, when: float, task_id: str = "") -> None:
        self.accepted[number] = when
        # A callback may arrive before the response.
        if number in self.called_back:
            return
        if task_id:
            self.in_flight[number] = task_id
        if self._has_callback(number):
            self.awaiting_callback.add(number)

    def _pending(self) -> set[int]:
        """Accepted requests whose task has not ended, or whose callback has not arrived."""
        return self.awaiting_callback | self.in_flight.keys()

    @property
    def failed(self) -> int:
        return self._errors[_TASK_FAILED]

    @property
    def errors(self) -> list[ErrorCount]:
        """Every kind of error, the most frequent first."""
        counts = self._errors.most_common()
        return [ErrorCount(kind=kind, count=count, first=self._first_errors[kind]) for kind, count in counts]

    def accept_times(self) -> Sequence[float]:
        return [when - self.scheduled[number] for number, when in self.accepted.items()]

    def end_to_end_times(self) -> Sequence[float]:
        return [when - self.scheduled[number] for number, when in self.completed.items()]

    def _record_error(self, kind: str, description: str) -> None:
        self._errors[kind] += 1
        self._first_errors.setdefault(kind, description)


def task_id_of(response: HttpResponse) -> str:
    """The id of the accepted task; empty where the response is a result or an error."""
    return header(response.head, b"location").decode("latin1").rpartition("/")[2]


def parse_failure(body: bytes, task_id: str) -> TaskFailure | None:
    """The failure in a callback; None for a result, which may look similar but has no `task_id` of the task."""
    if b'"task_id"' not in body:
        return None
    content = parse_json(body)
    if not isinstance(content, dict) or content.get("status") not in (FAILURE, REVOKED):
        return None
    # The callback of a replayed task has an id of its own, which begins with the task's.
    named = str(content.get("task_id", ""))
    if not named or not task_id.startswith(named):
        return None
    return TaskFailure(status=content["status"], reason=preflight.reason(content.get("result")))


def parse_json(body: bytes) -> Any:
    """The value of a body; None when it is not JSON."""
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return None
