"""Client of a task's stream of events at the api: Server-Sent Events, resumed when the connection breaks."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from denzel.errors import ServiceNotRunning, TaskUnknown

#: Seconds without a byte after which a connection is given up: the api sends something every 15.
SILENCE = 40.0

#: Seconds between two tries to connect again, and for how long there are any: an api restarts in less.
RETRY_INTERVAL = 1.0
GIVE_UP_AFTER = 60.0

#: The name of an event of our own, without data, once for each outage: the connection is broken, and made again.
AWAY = "away"


@dataclass(frozen=True, kw_only=True)
class TaskEvent:
    """An event: its name, its data, and the id to resume behind it."""

    name: str
    data: Any = None
    id: str = ""

    @property
    def is_last(self) -> bool:
        """True when the task has ended."""
        return self.name == "ended"


class _Broken(Exception):
    """The stream cannot be read now."""


def watch(
    address: tuple[str, int],
    task_id: str,
    *,
    key: str = "",
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[TaskEvent]:
    """The events of a task until it has ended, from the api at this address, with this API key if it is not empty.

    Raises TaskUnknown, and ServiceNotRunning when the api does not answer, or not again.
    """
    last_id, reached_at, has_answered, is_away = "", clock(), False, False
    while True:
        try:
            for event in _connected(address, task_id, key, last_id):
                reached_at, has_answered = clock(), True
                last_id = event.id or last_id
                if event.name:
                    is_away = False
                    yield event
                if event.is_last:
                    return
        except (OSError, http.client.HTTPException, _Broken) as error:
            if not has_answered or clock() - reached_at > GIVE_UP_AFTER:
                host, port = address
                raise ServiceNotRunning(
                    f"The api does not answer at {host}, port {port}.", hint="denzel status"
                ) from error
        if not is_away:
            is_away = True
            yield TaskEvent(name=AWAY)
        sleep(RETRY_INTERVAL)


def _connected(address: tuple[str, int], task_id: str, key: str, last_id: str) -> Iterator[TaskEvent]:
    """The events of one connection; the first has no name, and shows that it is there."""
    connection = http.client.HTTPConnection(*address, timeout=SILENCE)
    try:
        headers = {"Accept": "text/event-stream"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        headers |= {"Last-Event-ID": last_id} if last_id else {}
        connection.request("GET", f"/status/{quote(task_id, safe='')}/events", headers=headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise _refusal(response)
        yield TaskEvent(name="")
        yield from parse(iter(response.readline, b""))
    finally:
        connection.close()


def _refusal(response: http.client.HTTPResponse) -> Exception:
    problem: Any = None
    with suppress(ValueError):
        problem = json.loads(response.read())
    text = problem.get("description") if isinstance(problem, dict) else None
    if response.status == http.client.NOT_FOUND:
        return TaskUnknown(text or "There is no such task.", hint="denzel tasks lists those that wait and run.")
    if response.status == http.client.UNAUTHORIZED:
        return ServiceNotRunning(
            "The api does not take the API key of .env.", hint="denzel restart, when API_KEYS has changed."
        )
    return _Broken(f"the api answered {response.status}")


def parse(lines: Iterable[bytes]) -> Iterator[TaskEvent]:
    """The events in the lines of a stream; comments, and an event that breaks off, are left out."""
    fields: dict[str, str] = {}
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        if "event" in fields and "data" in fields:
            yield TaskEvent(name=fields["event"], data=_parsed(fields["data"]), id=fields.get("id", ""))
        fields = {}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
