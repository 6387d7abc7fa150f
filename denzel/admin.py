"""Client of the program app.serving.admin: callbacks that are not delivered, tasks that have not ended."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from denzel.backends.base import Backend
from denzel.errors import CommandFailed, ServiceNotRunning, TaskUnknown
from denzel.services import Service

#: Run in the service `denzel`, and prints JSON: app/serving/admin.py; or app/operations.py, in a project made before
#: December 2026, which has its serving code flat in app/.
PROGRAM = ("python", "-m", "app.serving.admin")
FLAT_PROGRAM = ("python", "-m", "app.operations")

#: Python's message for the package that a flat project lacks.
_IS_FLAT = "No module named 'app.serving'"

#: The program's exit code for arguments that it does not take.
_BAD_USAGE = 64

#: The program's exit code, and the line on its standard error with the reason, when Redis does not answer.
_REDIS_AWAY = 1
_REDIS_AWAY_LINE = re.compile(r"Redis can ?not be asked: (?P<reason>.*)")


@dataclass(frozen=True, kw_only=True)
class Callback:
    """A callback that is not delivered: PENDING until its last attempt, FAILED after it.

    `next_try` is in Unix seconds; None while it is being sent, and when it is FAILED.
    """

    task_id: str
    uri: str
    state: str
    attempts: int
    last_status: int | None
    last_error: str | None
    next_try: float | None


@dataclass(frozen=True, kw_only=True)
class UnfinishedTask:
    """A task that has not ended: its position among those that wait, or the host of its worker.

    `since` is when it began to wait, or to run, in Unix seconds.
    """

    task_id: str
    status: str
    position: int | None
    deliveries: int
    host: str | None
    since: float | None


@dataclass(frozen=True, kw_only=True)
class UnfinishedTasks:
    """Some of the tasks that have not ended: those that run, then those that wait, in their order.

    `offset` is the number of tasks before the first of these. `running` and `waiting` count all.
    """

    tasks: list[UnfinishedTask]
    offset: int
    running: int
    waiting: int

    @property
    def total(self) -> int:
        return self.running + self.waiting

    @property
    def end(self) -> int:
        """The number of tasks up to the last of these."""
        return self.offset + len(self.tasks)


@dataclass(frozen=True, kw_only=True)
class QuarantinedTask:
    """A task that was given up because it killed its worker too often, at `since` (Unix seconds) for the last time.

    Its request is kept.
    """

    task_id: str
    deliveries: int
    reason: str
    since: float | None


@dataclass(frozen=True, kw_only=True)
class BulkResult:
    """Outcome of one action on several tasks: ids for which it was done, and ids for which nothing is stored."""

    done: tuple[str, ...]
    unknown: tuple[str, ...]


def read_callbacks(backend: Backend, *, state: str | None = None) -> list[Callback]:
    """The callbacks that are not delivered: those in one `state` (PENDING or FAILED), or all."""
    kept = [Callback(**_only(Callback, entry)) for entry in _ask(backend, "callbacks")]
    return [callback for callback in kept if state in (None, callback.state)]


def read_tasks(backend: Backend, *, offset: int = 0, limit: int) -> UnfinishedTasks:
    """The tasks that have not ended, without the first `offset`, and `limit` at most."""
    tasks: list[UnfinishedTask] = []
    while True:
        page = _ask_for_tasks(backend, offset + len(tasks))
        tasks += [UnfinishedTask(**_only(UnfinishedTask, entry)) for entry in page["tasks"]]
        listed = UnfinishedTasks(tasks=tasks[:limit], offset=offset, running=page["claimed"], waiting=page["waiting"])
        if not page["tasks"] or len(tasks) >= limit or listed.end >= listed.total:
            return listed


def read_quarantined(backend: Backend) -> list[QuarantinedTask]:
    """The tasks in quarantine."""
    return [QuarantinedTask(**_only(QuarantinedTask, entry)) for entry in _ask(backend, "quarantined")]


def resend(backend: Backend, task_ids: Sequence[str]) -> BulkResult:
    """Send the callbacks of these tasks again, now."""
    answer = _ask(backend, "resend", *task_ids)
    return BulkResult(done=tuple(answer["resent"]), unknown=tuple(answer["unknown"]))


def resend_failed(backend: Backend) -> BulkResult:
    """Send every callback that was given up again, now."""
    answer = _ask(backend, "resend-failed")
    return BulkResult(done=tuple(answer["resent"]), unknown=tuple(answer["unknown"]))


def replay(backend: Backend, task_ids: Sequence[str]) -> BulkResult:
    """Run these quarantined tasks again."""
    answer = _ask(backend, "replay", *task_ids)
    return BulkResult(done=tuple(answer["replayed"]), unknown=tuple(answer["unknown"]))


def discard(backend: Backend, task_ids: Sequence[str]) -> BulkResult:
    """Remove these tasks from quarantine with their requests: they cannot be run again."""
    answer = _ask(backend, "discard", *task_ids)
    return BulkResult(done=tuple(answer["discarded"]), unknown=tuple(answer["unknown"]))


def check_callbacks_known(result: BulkResult) -> None:
    """Raise TaskUnknown when a task has no callback that could be sent again."""
    if result.unknown:
        raise TaskUnknown(
            f"No callback is stored for {', '.join(result.unknown)}.",
            hint="See which are not delivered: denzel callbacks",
        )


def check_tasks_known(result: BulkResult) -> None:
    """Raise TaskUnknown when a task is not in quarantine."""
    if result.unknown:
        raise TaskUnknown(
            f"Not in quarantine: {', '.join(result.unknown)}.", hint="See what is: denzel tasks --quarantined"
        )


def as_data(entries: Sequence[Callback | UnfinishedTask | QuarantinedTask]) -> list[dict[str, Any]]:
    """The entries as JSON values."""
    return [asdict(entry) for entry in entries]


def _ask(backend: Backend, *words: str) -> Any:
    """The program's answer; raises ServiceNotRunning, also when Redis does not answer, and CommandFailed."""
    try:
        return json.loads(_execute(backend, words))
    except CommandFailed as error:
        line = _REDIS_AWAY_LINE.search(error.stderr)
        if error.code != _REDIS_AWAY or line is None:
            raise
        reason = line["reason"].strip().rstrip(".")
        raise ServiceNotRunning(f"redis does not answer: {reason}.", hint="denzel logs --service redis") from None


def _ask_for_tasks(backend: Backend, offset: int) -> Any:
    try:
        return _ask(backend, "tasks", str(offset))
    except CommandFailed as error:
        if error.code != _BAD_USAGE:
            raise
    # A project made before December 2026 lists the first 1000, and counts none.
    tasks = _ask(backend, "tasks")
    waiting = sum(task["host"] is None for task in tasks)
    return {"tasks": tasks[offset:], "claimed": len(tasks) - waiting, "waiting": waiting}


def _execute(backend: Backend, words: Sequence[str]) -> str:
    """The output of the program that the project has; raises CommandFailed."""
    try:
        return backend.execute(Service.DENZEL, [*PROGRAM, *words])
    except CommandFailed as error:
        if _IS_FLAT not in error.stderr:
            raise
    return backend.execute(Service.DENZEL, [*FLAT_PROGRAM, *words])


def _only(kind: type[Any], entry: dict[str, Any]) -> dict[str, Any]:
    """The fields that `kind` has: the serving code of a newer release may print more."""
    return {name: entry[name] for name in kind.__dataclass_fields__}
