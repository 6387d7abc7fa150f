"""Load of a drill: requests that are retried until they are accepted, and polling of their tasks."""

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
from denzel.loadtest.drill.results import NO_CONNECTION, TrackedTask
from denzel.services import TERMINAL_STATES

#: Threads that send requests.
_SENDERS = 8

#: Seconds that a response may take.
_RESPONSE_TIMEOUT = 15.0

#: Tasks that are polled at a time, so that polling is no load of its own.
_POLL_LIMIT = 20


class ApiUnavailable(Exception):
    """The api cannot be reached, or cannot answer now. `reason` is the status of its response, or NO_CONNECTION."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ApiClient:
    """Blocking client of a project's api, at a host and a port."""

    def __init__(self, host: str, port: int, *, key: str = "") -> None:
        self._host = host
        self._port = port
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def predict(self, body: Mapping[str, Any], *, key: str) -> str:
        """The id of the task that a request made under this idempotency key.

        Raises ApiUnavailable, and RequestUnusable for a request that no retry can help.
        """
        headers = {"Content-Type": "application/json", "Prefer": "respond-async", "Idempotency-Key": key}
        status, answer = self._send("POST", "/predict", headers, json.dumps(body).encode())
        if status == 200:
            task_id: str = answer["data"]["task_id"]
            return task_id
        if status >= 500:
            raise ApiUnavailable(str(status))
        raise preflight.refused(status, answer)

    def task(self, task_id: str) -> dict[str, Any] | None:
        """A task as GET /status shows it; None when there is none with this id. Raises ApiUnavailable."""
        status, answer = self._send("GET", f"/status/{task_id}", {})
        if status == 404:
            return None
        if status != 200 or not isinstance(answer, dict):
            raise ApiUnavailable(str(status))
        return answer

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_RESPONSE_TIMEOUT)
        try:
            connection.request(method, path, body=body, headers={**self._headers, **headers})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            # Also a response that was cut off in the middle.
            raise ApiUnavailable(NO_CONNECTION) from None
        finally:
            connection.close()


class Load:
    """Sends `requests` in turn, each with a callback URI of its own; use it in a `with`."""

    def __init__(
        self,
        api: ApiClient,
        requests: Sequence[Mapping[str, Any]],
        callback_uri: Callable[[int], str],
        *,
        called_back: Callable[[], Collection[str]],
        interval: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`called_back` returns the ids of tasks whose callbacks have arrived, as these are polled first.

        `interval` is in seconds: between two attempts of a request, and between two polls of the tasks.
        """
        self.refused: Counter[str] = Counter()
        self.requested = 0
        self._api = api
        self._requests = requests
        self._callback_uri = callback_uri
        self._called_back = called_back
        self._interval = interval
        self._clock = clock
        self._tasks: dict[int, TrackedTask] = {}
        self._unsent: SimpleQueue[int | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._error: RequestUnusable | None = None
        self._threads = [
            *(threading.Thread(target=self._send_requests, daemon=True) for _ in range(_SENDERS)),
            threading.Thread(target=self._poll_tasks, daemon=True),
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for _thread in self._threads:
            self._unsent.put(None)
        for thread in self._threads:
            thread.join(_RESPONSE_TIMEOUT)

    def send(self, count: int) -> None:
        """Send so many more requests in the background; raises RequestUnusable when the api has rejected one."""
        if self._error is not None:
            raise self._error
        for _ in range(count):
            self._unsent.put(self.requested)
            self.requested += 1

    @property
    def tasks(self) -> list[TrackedTask]:
        """The tasks of all accepted requests, by the request's number."""
        with self._lock:
            return [self._tasks[number] for number in sorted(self._tasks)]

    def _send_requests(self) -> None:
        while (number := self._unsent.get()) is not None and not self._stopping.is_set():
            try:
                self._send_until_accepted(number)
            except RequestUnusable as error:
                self._error = error

    def _send_until_accepted(self, number: int) -> None:
        """Retry a request under one idempotency key: a lost response must not lead to a second task."""
        body = {**self._requests[number % len(self._requests)], "callback_uri": self._callback_uri(number)}
        key = uuid.uuid4().hex
        while not self._stopping.is_set():
            try:
                task_id = self._api.predict(body, key=key)
            except ApiUnavailable as error:
                with self._lock:
                    self.refused[error.reason] += 1
                self._stopping.wait(self._interval)
                continue
            with self._lock:
                self._tasks[number] = TrackedTask(number=number, task_id=task_id, accepted=self._clock())
            return

    def _poll_tasks(self) -> None:
        polls: Counter[str] = Counter()
        while not self._stopping.wait(self._interval):
            called_back = self._called_back()
            unsettled = [task for task in self.tasks if not (task.settled or task.gone)]
            # Those that have surely ended first, then the least often polled.
            unsettled.sort(
                key=lambda task: (task.ended is not None, task.task_id not in called_back, polls[task.task_id])
            )
            for task in unsettled[:_POLL_LIMIT]:
                polls[task.task_id] += 1
                try:
                    polled = poll(self._api, task, self._clock)
                except ApiUnavailable:
                    break
                with self._lock:
                    self._tasks[task.number] = polled


def poll(api: ApiClient, task: TrackedTask, clock: Callable[[], float]) -> TrackedTask:
    """A task, updated from GET /status; raises ApiUnavailable."""
    answer = api.task(task.task_id)
    if answer is None:
        return replace(task, gone=True)
    status = str(answer.get("status"))
    if status not in TERMINAL_STATES:
        return replace(task, status=status)
    # Without a `callback` in the answer, only the receiver can show whether it arrived.
    callback = answer.get("callback") or {}
    return replace(
        task,
        status=status,
        reason=preflight.reason(answer.get("result")),
        ended=clock() if task.ended is None else task.ended,
        settled=callback.get("state") != "PENDING",
    )
