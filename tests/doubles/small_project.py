"""A project in one process: an api, a worker and callbacks over real sockets, with injected faults.

It does what drill and bench need, and no more. A part that its backend kills is down for a moment, and recovers.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from doubles.backend import FakeBackend, Machine
from doubles.receiver import Handler, Server, running
from support.ports import find_free_port

from denzel.project import dotenv
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import Service

#: Seconds that a killed part is down, at least: it recovers once a client has seen it down.
DOWNTIME = 0.2


@dataclass
class Faults:
    """The faults of a project, and the number of tasks with each; the first request has none, but where it is named."""

    never_end: int = 0
    fail: int = 0
    #: The reason of a FAILURE of the first request.
    fail_first: str = ""
    never_call_back: int = 0
    call_back_twice: int = 0
    sign_badly: int = 0
    make_twice: int = 0
    drop_responses: int = 0
    #: The first request is accepted, and its response lost.
    drop_first: bool = False
    #: Seconds that verify_input takes.
    verify_seconds: float = 0
    forget: int = 0
    #: No callback arrives at all.
    unreachable: bool = False
    #: The response to every request but the first.
    answer: tuple[int, Any] | None = None
    #: It is the response to the first one, too.
    answer_first: bool = False


@dataclass
class SmallProject:
    """A project at its port: its faults, and a record of its requests, tasks and callbacks."""

    port: int
    faults: Faults
    secret: str = ""
    key: str = ""
    #: Seconds that a request waits for its result.
    sync_seconds: float = 5
    down: set[Service] = field(default_factory=set)
    never_recovers: set[Service] = field(default_factory=set)
    #: Services that recover before a client can see them down.
    recovers_at_once: set[Service] = field(default_factory=set)
    seen_down: set[Service] = field(default_factory=set)
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    prefer_headers: set[str | None] = field(default_factory=set)
    processes: set[str] = field(default_factory=lambda: {"11", "12"})
    killed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    #: Requests, accepted or not; and the tasks whose callback was accepted.
    received: int = 0
    delivered: list[str] = field(default_factory=list)
    _uris: dict[str, str | None] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _left: dict[str, int] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def kill(self, service: Service) -> None:
        """Take a service down, and let it recover in a moment."""
        self.killed.append(service.value)
        if service in self.recovers_at_once:
            return
        self.seen_down.discard(service)
        self.down.add(service)
        self._start(lambda: self._recover(service))

    def _recover(self, service: Service) -> None:
        self._stopping.wait(DOWNTIME)
        # On a slow machine, too.
        while service not in self.seen_down and not self._stopping.wait(0.02):
            pass
        if service not in self.never_recovers:
            self.down.discard(service)

    def is_down(self, service: Service) -> bool:
        """True for a client of a service that is down."""
        if service not in self.down:
            return False
        self.seen_down.add(service)
        return True

    def kill_process(self, pid: str) -> None:
        self.killed.append(f"process {pid}")
        self.processes.remove(pid)
        self._start(lambda: self._stopping.wait(DOWNTIME) or self.processes.add(str(int(pid) + 100)))

    def end(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def accept(self, body: dict[str, Any], key: str | None) -> tuple[str, bool]:
        """The task of a request, and true when its response is to be lost."""
        with self._lock:
            if key in self._keys and not self._happens("make_twice"):
                return self._keys[key], False
            task_id = str(uuid.uuid4())
            # Requests without a key are all different.
            key = key or task_id
            self._keys[key] = task_id
            self.bodies.append(body)
            self.accepted[task_id] = {"status": "PENDING", "result": None}
            self._uris[task_id] = body.get("callback_uri")
            dropped = self._happens("drop_responses") or (self.faults.drop_first and len(self.accepted) == 1)
        self._start(lambda: self._run(task_id, body.get("callback_uri")))
        return task_id, dropped

    def cancel(self, task_id: str) -> bool:
        """Cancel a task that has not ended, and call back; false when there is none."""
        with self._lock:
            if self.accepted.get(task_id, {}).get("status") != "PENDING":
                return False
            self.accepted[task_id] = {"status": "REVOKED", "result": {"args": ["cancelled"]}}
        self.cancelled.append(task_id)
        uri = self._uris[task_id]
        if uri is not None:
            self._start(lambda: self._call_back(task_id, uri, badly=False))
        return True

    def _happens(self, fault: str) -> bool:
        if len(self.accepted) < 2:
            return False
        left = self._left.setdefault(fault, getattr(self.faults, fault))
        self._left[fault] = left - 1
        return left > 0

    def _run(self, task_id: str, uri: str | None) -> None:
        while self.is_down(Service.DENZEL) or Service.REDIS in self.down:
            if self._stopping.wait(0.02):
                return
        with self._lock:
            never_ends, never_calls, forgotten = map(self._happens, ("never_end", "never_call_back", "forget"))
            fails, badly, twice = map(self._happens, ("fail", "sign_badly", "call_back_twice"))
        if never_ends:
            return
        if forgotten:
            del self.accepted[task_id]
            return
        reason = "no" if fails else self.faults.fail_first if len(self.accepted) == 1 else ""
        ended = (
            {"status": "FAILURE", "result": {"args": [reason]}} if reason else {"status": "SUCCESS", "result": {"a": 1}}
        )
        self.accepted[task_id] = {**ended, "callback": {"state": "PENDING"}}
        if uri is None:
            return
        if never_calls or self.faults.unreachable:
            self.accepted[task_id]["callback"] = {"state": "FAILED"}
            return
        for _ in range(1 + twice):
            while not self._stopping.is_set() and not self._call_back(task_id, uri, badly=badly):
                self._stopping.wait(0.05)
        self.accepted[task_id]["callback"] = {"state": "DELIVERED"}

    def _call_back(self, task_id: str, uri: str, *, badly: bool) -> bool:
        task = self.accepted[task_id]
        content = {"a": 1} if task["status"] == "SUCCESS" else {**task, "task_id": task_id}
        body, now = json.dumps(content).encode(), str(int(time.time()))
        headers = {"webhook-id": task_id, "webhook-timestamp": now}
        if self.secret:
            secret = base64.b64decode(self.secret.removeprefix("whsec_"))
            digest = hmac.digest(secret, f"{task_id}.{now}.".encode() + body * (1 + badly), hashlib.sha256)
            headers["webhook-signature"] = "v1," + base64.b64encode(digest).decode()
        address = uri.replace("host.docker.internal", "127.0.0.1")
        try:
            with urlopen(Request(address, data=body, headers=headers), timeout=1) as answer:
                accepted = bool(answer.status < 300)
        except (OSError, HTTPException):
            return False
        if accepted:
            self.delivered.append(task_id)
        return accepted

    def verify(self) -> bool:
        """Take as long as verify_input does; false when the project ends meanwhile."""
        self.received += 1
        return not self._stopping.wait(self.faults.verify_seconds)

    def _start(self, target: Callable[[], Any]) -> None:
        thread = threading.Thread(target=target)
        thread.start()
        self._threads.append(thread)


class HiddenProgress:
    """The progress of a drill or a bench that is not shown."""

    def doing(self, text: str) -> None:
        pass

    note = doing


class SmallBackend(FakeBackend):
    """The backend of a small project."""

    project: SmallProject

    def kill(self, service: Service) -> None:
        super().kill(service)
        self.project.kill(service)

    def execute(self, service: Service, argv: Sequence[str], *, stdin: str = "") -> str:
        self.answers[tuple(argv)] = ""
        super().execute(service, argv, stdin=stdin)
        self.project.kill_process(argv[-1].split()[-1])
        return ""

    def redis(self, *command: str) -> Any:
        answer = super().redis(*command)
        if command[0] == "HGETALL":
            processes = {f"process:here/{process}": "UP " for process in self.project.processes}
            # The report of a container that was replaced stands for a while.
            return {**answer, "seen:gone": "1.5", "process:gone/99": "UP ", "seen:here": "2.5", **processes}
        return answer


@contextmanager
def small_project(
    faults: Faults | None = None, *, down: Collection[Service] = (), **fields: Any
) -> Iterator[SmallProject]:
    """A project that runs meanwhile; services that are `down` never recover."""
    project = SmallProject(find_free_port(), faults or Faults(), down=set(down), never_recovers=set(down), **fields)

    class Api(Handler):
        def do_POST(self) -> None:
            body = json.loads(self.content())
            if project.is_down(Service.API):
                return
            if project.key and self.headers["Authorization"] != f"Bearer {project.key}":
                self.answer_json(401, {"title": "Not authorised", "description": "This needs an API key."})
                return
            if project.is_down(Service.REDIS):
                self.answer_json(503, {"title": "Unavailable"})
                return
            if not project.verify():
                return
            if project.faults.answer is not None and (project.faults.answer_first or project.accepted):
                self.answer_json(*project.faults.answer)
                return
            project.prefer_headers.add(self.headers["Prefer"])
            task_id, dropped = project.accept(body, self.headers["Idempotency-Key"])
            if dropped:
                return
            if "wait" in (self.headers["Prefer"] or ""):
                self._answer_with_result(task_id)
                return
            self._accept(200, task_id)

        def _answer_with_result(self, task_id: str) -> None:
            deadline = time.monotonic() + project.sync_seconds
            while project.accepted[task_id]["status"] == "PENDING" and time.monotonic() < deadline:
                time.sleep(0.002)
            task = project.accepted[task_id]
            if task["status"] == "SUCCESS":
                self.answer_json(200, task["result"])
            elif task["status"] == "FAILURE":
                self.answer_json(500, {"title": "Prediction failed", "description": "no", "task_id": task_id})
            else:
                self._accept(202, task_id)

        def _accept(self, status: int, task_id: str) -> None:
            content = {"status": "success", "data": {"task_id": task_id}}
            self.answer_json(status, content, Location=f"/status/{task_id}")

        def do_DELETE(self) -> None:
            cancelled = project.cancel(self.path.removeprefix("/status/"))
            self.answer_json(200 if cancelled else 409, {"status": "REVOKED"})

        def do_GET(self) -> None:
            if self.path == "/healthcheck":
                self.answer_json(503 if project.is_down(Service.MONITOR) else 200, "OK")
            elif Service.API not in project.down:
                task = project.accepted.get(self.path.removeprefix("/status/"))
                self.answer_json(404 if task is None else 200, task or {"title": "Unknown task"})

    with running(Server(("127.0.0.1", project.port), Api)):
        try:
            yield project
        finally:
            project.end()


@contextmanager
def launched(folder: Path, small: SmallProject, **changes: str) -> Iterator[tuple[Project, SmallBackend]]:
    """A new project, launched, whose api and dashboard are those of the small one."""
    project = start_project("iris", folder)
    given = {"API_PORT": str(small.port), "MONITOR_PORT": str(small.port), "CALLBACK_SECRET": small.secret}
    keys = {"API_KEYS": f"{small.key},another" if small.key else ""}
    dotenv.change(project.env_file, {**given, **keys, **changes})
    backend = SmallBackend(project, dotenv.load(project.env_file, {}), Machine())
    backend.project = small
    backend.build(lambda step: None, stamps={})
    backend.up()
    yield project, backend
