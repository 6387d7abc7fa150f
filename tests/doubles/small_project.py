"""A project in one process: an api, a worker and callbacks over real sockets, which keep their promises unless told.

It is what a drill needs to see, and no more. Its backend kills parts of it as a real one does: they are away for a
moment, and come back.
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

#: Seconds that a killed part is away, at least: it comes back when somebody has met it away.
AWAY = 0.2


@dataclass
class Faults:
    """What the project does wrong, and with how many tasks; the drill's first request goes well, unless told."""

    never_end: int = 0
    fail: int = 0
    #: The first request ends as FAILURE, for this reason.
    fail_first: str = ""
    never_call_back: int = 0
    call_back_twice: int = 0
    sign_badly: int = 0
    make_twice: int = 0
    drop_answers: int = 0
    #: The first request is accepted, and its answer lost.
    drop_first: bool = False
    #: Seconds that verify_input takes.
    verify_for: float = 0
    forget: int = 0
    #: No callback arrives at all.
    unreachable: bool = False
    #: What every request but the first is answered with.
    answer: tuple[int, Any] | None = None
    #: The first one too.
    answer_first: bool = False


@dataclass
class SmallProject:
    port: int
    faults: Faults
    secret: str = ""
    key: str = ""
    #: How long a request that waits for its result does so.
    sync_seconds: float = 5
    away: set[Service] = field(default_factory=set)
    stays_away: set[Service] = field(default_factory=set)
    #: What is back before anybody can see that it was away.
    is_back_at_once: set[Service] = field(default_factory=set)
    met_away: set[Service] = field(default_factory=set)
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    preferences: set[str | None] = field(default_factory=set)
    processes: set[str] = field(default_factory=lambda: {"11", "12"})
    killed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    #: Requests that came, accepted or not yet; and the tasks whose callback was taken.
    asked: int = 0
    delivered: list[str] = field(default_factory=list)
    _uris: dict[str, str | None] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _left: dict[str, int] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def kill(self, service: Service) -> None:
        """Away now, and back in a moment."""
        self.killed.append(service.value)
        if service in self.is_back_at_once:
            return
        self.met_away.discard(service)
        self.away.add(service)
        self._start(lambda: self._come_back(service))

    def _come_back(self, service: Service) -> None:
        self._stopping.wait(AWAY)
        # However slow this machine is.
        while service not in self.met_away and not self._stopping.wait(0.02):
            pass
        if service not in self.stays_away:
            self.away.discard(service)

    def is_away(self, service: Service) -> bool:
        """For somebody who asks a part for its work."""
        if service not in self.away:
            return False
        self.met_away.add(service)
        return True

    def kill_process(self, pid: str) -> None:
        self.killed.append(f"process {pid}")
        self.processes.remove(pid)
        self._start(lambda: self._stopping.wait(AWAY) or self.processes.add(str(int(pid) + 100)))

    def end(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def accept(self, body: dict[str, Any], key: str | None) -> tuple[str, bool]:
        """The task of a request, and whether its answer shall be lost."""
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
            dropped = self._happens("drop_answers") or (self.faults.drop_first and len(self.accepted) == 1)
        self._start(lambda: self._run(task_id, body.get("callback_uri")))
        return task_id, dropped

    def cancel(self, task_id: str) -> bool:
        """End a task that has not ended, and call back; whether there was one."""
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
        while self.is_away(Service.DENZEL) or Service.REDIS in self.away:
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
        told = {"a": 1} if task["status"] == "SUCCESS" else {**task, "task_id": task_id}
        body, now = json.dumps(told).encode(), str(int(time.time()))
        headers = {"webhook-id": task_id, "webhook-timestamp": now}
        if self.secret:
            secret = base64.b64decode(self.secret.removeprefix("whsec_"))
            digest = hmac.digest(secret, f"{task_id}.{now}.".encode() + body * (1 + badly), hashlib.sha256)
            headers["webhook-signature"] = "v1," + base64.b64encode(digest).decode()
        address = uri.replace("host.docker.internal", "127.0.0.1")
        try:
            with urlopen(Request(address, data=body, headers=headers), timeout=1) as answer:
                taken = bool(answer.status < 300)
        except (OSError, HTTPException):
            return False
        if taken:
            self.delivered.append(task_id)
        return taken

    def verify(self) -> bool:
        """Take as long as verify_input does; whether the project was still there then."""
        self.asked += 1
        return not self._stopping.wait(self.faults.verify_for)

    def _start(self, target: Callable[[], Any]) -> None:
        thread = threading.Thread(target=target)
        self._threads.append(thread)
        thread.start()


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
            return {**answer, **{f"process:here/{process}": "UP " for process in self.project.processes}}
        return answer


@contextmanager
def small_project(
    faults: Faults | None = None,
    *,
    secret: str = "",
    key: str = "",
    away: Collection[Service] = (),
    sync_seconds: float = 5,
) -> Iterator[SmallProject]:
    """One that runs meanwhile; what is `away` from the start stays away."""
    project = SmallProject(
        port=find_free_port(),
        faults=faults or Faults(),
        secret=secret,
        key=key,
        away=set(away),
        stays_away=set(away),
        sync_seconds=sync_seconds,
    )

    class Api(Handler):
        def do_POST(self) -> None:
            body = json.loads(self.content())
            if project.is_away(Service.API):
                return
            if project.key and self.headers["Authorization"] != f"Bearer {project.key}":
                self.answer_json(401, {"title": "Not authorised", "description": "This needs an API key."})
                return
            if project.is_away(Service.REDIS):
                self.answer_json(503, {"title": "Unavailable"})
                return
            if not project.verify():
                return
            if project.faults.answer is not None and (project.faults.answer_first or project.accepted):
                self.answer_json(*project.faults.answer)
                return
            project.preferences.add(self.headers["Prefer"])
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
                self.answer_json(503 if project.is_away(Service.MONITOR) else 200, "OK")
            elif Service.API not in project.away:
                task = project.accepted.get(self.path.removeprefix("/status/"))
                self.answer_json(404 if task is None else 200, task or {"title": "Unknown task"})

    with running(Server(("127.0.0.1", project.port), Api)):
        try:
            yield project
        finally:
            project.end()


@contextmanager
def launched(folder: Path, small: SmallProject, **changes: str) -> Iterator[tuple[Project, SmallBackend]]:
    """A project whose api and dashboard are those of the small one."""
    project = start_project("iris", folder)
    given = {"API_PORT": str(small.port), "MONITOR_PORT": str(small.port), "CALLBACK_SECRET": small.secret}
    keys = {"API_KEYS": f"{small.key},another" if small.key else ""}
    dotenv.change(project.env_file, {**given, **keys, **changes})
    backend = SmallBackend(project, dotenv.load(project.env_file, {}), Machine())
    backend.project = small
    backend.build(lambda step: None, stamps={})
    backend.up()
    yield project, backend
