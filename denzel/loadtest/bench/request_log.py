"""What became of each request of a bench: noted as it happens, and counted at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from denzel.loadtest import preflight
from denzel.loadtest.bench.metrics import Errors
from denzel.loadtest.http.client import HttpResponse
from denzel.loadtest.http.http1 import header
from denzel.services import FAILURE, REVOKED

NOT_IN_TIME = "202"
TASK_FAILED = "task failed"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What the callback of a task without a result says: FAILURE or REVOKED, and why."""

    status: str
    reason: str


class RequestLog:
    """Requests by their numbers; all moments are on one clock.

    `has_callback` says whether a request asks for a callback. `ended` is told of each whose callback has come. Numbers
    begin with `first`; callbacks of others are ignored.
    """

    def __init__(
        self,
        *,
        synchronous: bool,
        has_callback: Callable[[int], bool],
        ended: Callable[[int], None] | None = None,
        first: int = 0,
    ) -> None:
        self.synchronous = synchronous
        self._has_callback = has_callback
        self._ended = ended
        self._next = first
        self.intended: dict[int, float] = {}
        self.accepted: dict[int, float] = {}
        #: Those that came to a good end: answered with a result, or called back with one.
        self.completed: dict[int, float] = {}
        #: The ids of tasks that have not ended, as far as anybody knows.
        self.under_way: dict[int, str] = {}
        self.unanswered: set[int] = set()
        #: Those whose callback should come, and has not.
        self.uncalled: set[int] = set()
        self.called_back: set[int] = set()
        self.cancelled: set[int] = set()
        self._kinds: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def begin(self, intended: float) -> int:
        """The number of a request that is sent now, and should have been sent at this moment."""
        number = self._next
        self._next += 1
        self.intended[number] = intended
        self.unanswered.add(number)
        return number

    @property
    def outstanding(self) -> int:
        """Requests of which something will still come: an answer, the end of the task, a callback."""
        return len(self.unanswered) + len(self._awaited())

    @property
    def unfinished(self) -> int:
        """Requests that have not come to their end, which is an answer with the result, or else a callback.

        A task that runs on behind a 202 is one, too.
        """
        return len(self.unanswered) + len(self.under_way.keys() if self.synchronous else self._awaited())

    def answer(self, number: int, answer: HttpResponse) -> bool:
        """Note what a request was answered with; whether it was accepted."""
        self.unanswered.discard(number)
        task_id = task_of(answer)
        if answer.status == 200 and not task_id:
            self._accept(number, answer.when)
            self.completed[number] = answer.when
            return True
        if answer.status in (200, 202) and task_id:
            self._accept(number, answer.when, task_id)
            if self.synchronous:
                self._error(NOT_IN_TIME, "the result was not ready in time")
            return True
        content = read_json(answer.body)
        description = preflight.description(answer.status, content)
        if isinstance(content, dict) and "task_id" in content:
            self._accept(number, answer.when)
            self._error(TASK_FAILED, description)
            return True
        self._error(str(answer.status), description)
        return False

    def no_answer(self, number: int, kind: str, why: str) -> None:
        self.unanswered.discard(number)
        self._error(kind, why)

    def take_callback(self, number: int, when: float, task_id: str, body: bytes) -> None:
        """Note a callback; a repeated one counts once."""
        if number not in self.intended or number in self.called_back:
            return
        self.called_back.add(number)
        self.uncalled.discard(number)
        self.under_way.pop(number, None)
        failure = failure_in(body, task_id)
        if failure is None or failure.status != REVOKED:
            # It had ended before somebody cancelled it, whatever that is answered with.
            self.cancelled.discard(number)
        if not self.synchronous and number not in self.cancelled:
            if failure is None:
                self.completed[number] = when
            else:
                self._error(TASK_FAILED, failure.reason)
        if self._ended is not None:
            self._ended(number)

    def _accept(self, number: int, when: float, task_id: str = "") -> None:
        self.accepted[number] = when
        # A callback may be faster than the answer.
        if number in self.called_back:
            return
        if task_id:
            self.under_way[number] = task_id
        if self._has_callback(number):
            self.uncalled.add(number)

    def _awaited(self) -> set[int]:
        """Those that were accepted, and of which something will still come."""
        return self.uncalled | self.under_way.keys()

    @property
    def failed(self) -> int:
        return self._kinds[TASK_FAILED]

    @property
    def errors(self) -> list[Errors]:
        """Every kind, the most frequent first."""
        return [Errors(kind=kind, count=count, first=self._first[kind]) for kind, count in self._kinds.most_common()]

    def accept_times(self) -> Sequence[float]:
        return [when - self.intended[number] for number, when in self.accepted.items()]

    def end_to_end_times(self) -> Sequence[float]:
        return [when - self.intended[number] for number, when in self.completed.items()]

    def _error(self, kind: str, said: str) -> None:
        self._kinds[kind] += 1
        self._first.setdefault(kind, said)


def task_of(answer: HttpResponse) -> str:
    """The id of the task that was accepted; empty where the answer is a result, or an error."""
    return header(answer.head, b"location").decode("latin1").rpartition("/")[2]


def failure_in(body: bytes, task_id: str) -> Failure | None:
    """How a task failed, when this is the callback of one that did; a result may look similar, but names no task."""
    if b'"task_id"' not in body:
        return None
    content = read_json(body)
    if not isinstance(content, dict) or content.get("status") not in (FAILURE, REVOKED):
        return None
    # A replayed task's callback has another id than the task, which it begins with.
    named = str(content.get("task_id", ""))
    if not named or not task_id.startswith(named):
        return None
    return Failure(status=content["status"], reason=preflight.reason(content.get("result")))


def read_json(body: bytes) -> Any:
    """What a body says; None when it is no JSON."""
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return None
