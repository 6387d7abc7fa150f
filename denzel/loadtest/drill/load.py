"""The requests of a drill: sent until they are accepted, each under a key of its own, and their tasks watched."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from denzel.errors import RequestUnusable
from denzel.loadtest import preflight
from denzel.loadtest.drill.results import NO_CONNECTION, SentTask
from denzel.services import TERMINAL_STATES

#: Requests that are sent at the same time, at most.
_SENDERS = 8

#: Seconds that an answer may take.
_ANSWER_WITHIN = 15.0

#: Tasks that one look asks for, at most: it must not be a load of its own.
_ASKED_AT_ONCE = 20


class RequestRefused(Exception):
    """A try that led to no answer, or to the answer that the api cannot now. `reason` is the status, or why not."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Api:
    """A project's api, at a host and a port."""

    def __init__(self, host: str, port: int, *, key: str = "") -> None:
        self._host = host
        self._port = port
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def predict(self, body: Mapping[str, Any], *, key: str) -> str:
        """The id of the task that the request made; raises Refused, and RequestUnusable for what no retry can mend."""
        headers = {"Content-Type": "application/json", "Prefer": "respond-async", "Idempotency-Key": key}
        status, answer = self._ask("POST", "/predict", headers, json.dumps(body).encode())
        if status == 200:
            task_id: str = answer["data"]["task_id"]
            return task_id
        if status >= 500:
            raise RequestRefused(str(status))
        raise preflight.refused(status, answer)

    def task(self, task_id: str) -> dict[str, Any] | None:
        """What GET /status says of a task; None when it knows none with this id. Raises Refused."""
        status, answer = self._ask("GET", f"/status/{task_id}", {})
        if status == 404:
            return None
        if status != 200 or not isinstance(answer, dict):
            raise RequestRefused(str(status))
        return answer

    def _ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_ANSWER_WITHIN)
        try:
            connection.request(method, path, body=body, headers={**self._headers, **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            # Also an answer that was cut off in the middle.
            raise RequestRefused(NO_CONNECTION) from None
        finally:
            connection.close()


class Load:
    """Sends requests, `requests` in turn, each with an address of its own for its callback; use it in a `with`."""

    def __init__(
        self,
        api: Api,
        requests: Sequence[Mapping[str, Any]],
        address: Callable[[int], str],
        *,
        called_back: Callable[[], Collection[str]],
        pause: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`called_back` tells the ids of tasks whose callbacks have come, as these are the first to be looked at.

        `pause` is in seconds: between two tries of a request, and between two looks at the tasks.
        """
        self.refused: Counter[str] = Counter()
        self._api = api
        self._requests = requests
        self._address = address
        self._called_back = called_back
        self._pause = pause
        self._clock = clock
        self._tasks: dict[int, SentTask] = {}
        self._ordered = 0
        self._waiting: SimpleQueue[int | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._error: RequestUnusable | None = None
        self._threads = [
            *(threading.Thread(target=self._send, daemon=True) for _ in range(_SENDERS)),
            threading.Thread(target=self._watch, daemon=True),
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for _thread in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(_ANSWER_WITHIN)

    def send(self, count: int) -> None:
        """Order so many requests more, and do not wait for them; raises RequestUnusable when the api wants none."""
        if self._error is not None:
            raise self._error
        for _ in range(count):
            self._waiting.put(self._ordered)
            self._ordered += 1

    @property
    def tasks(self) -> list[SentTask]:
        """Every accepted request, by its number."""
        with self._lock:
            return [self._tasks[number] for number in sorted(self._tasks)]

    @property
    def ordered(self) -> int:
        return self._ordered

    def _send(self) -> None:
        while (number := self._waiting.get()) is not None and not self._stopping.is_set():
            try:
                self._insist(number)
            except RequestUnusable as error:
                self._error = error

    def _insist(self, number: int) -> None:
        """Send one request until it is accepted, always under its key: a lost answer must not make a second task."""
        body = {**self._requests[number % len(self._requests)], "callback_uri": self._address(number)}
        key = uuid.uuid4().hex
        while not self._stopping.is_set():
            try:
                task_id = self._api.predict(body, key=key)
            except RequestRefused as refusal:
                with self._lock:
                    self.refused[refusal.reason] += 1
                self._stopping.wait(self._pause)
                continue
            with self._lock:
                self._tasks[number] = SentTask(number=number, task_id=task_id, accepted=self._clock())
            return

    def _watch(self) -> None:
        seen: Counter[str] = Counter()
        while not self._stopping.wait(self._pause):
            called_back = self._called_back()
            open_tasks = [task for task in self.tasks if not (task.settled or task.gone)]
            # Those that have surely ended first, then those that were not asked for the longest.
            open_tasks.sort(
                key=lambda task: (task.ended is not None, task.task_id not in called_back, seen[task.task_id])
            )
            for task in open_tasks[:_ASKED_AT_ONCE]:
                seen[task.task_id] += 1
                try:
                    seen_now = read_status(self._api, task, self._clock)
                except RequestRefused:
                    break
                with self._lock:
                    self._tasks[task.number] = seen_now


def read_status(api: Api, task: SentTask, clock: Callable[[], float]) -> SentTask:
    """A task brought up to date with what GET /status says; raises Refused."""
    answer = api.task(task.task_id)
    if answer is None:
        return replace(task, gone=True)
    status = str(answer.get("status"))
    if status not in TERMINAL_STATES:
        return replace(task, status=status)
    # An api that says nothing of callbacks leaves it to the receiver to know.
    callback = answer.get("callback") or {}
    return replace(
        task,
        status=status,
        reason=preflight.reason(answer.get("result")),
        ended=clock() if task.ended is None else task.ended,
        settled=callback.get("state") != "PENDING",
    )
