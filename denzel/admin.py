"""What the serving code keeps of unfinished work: callbacks that are not delivered, tasks that have not ended."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from denzel.backends.base import Backend
from denzel.errors import CommandFailed, ServiceNotRunning, TaskUnknown
from denzel.services import Service

#: The program in the service `denzel` that answers: app/serving/admin.py; or app/operations.py, in a project that was
#: made before December 2026 and so has its serving code flat in app/.
PROGRAM = ("python", "-m", "app.serving.admin")
FLAT_PROGRAM = ("python", "-m", "app.operations")

#: How Python names the package that a flat project has not.
_IS_FLAT = "No module named 'app.serving'"

#: How the program reports that Redis does not answer: with this exit code, and one line that holds the reason.
_REDIS_AWAY = 1
_REDIS_AWAY_LINE = re.compile(r"Redis can ?not be asked: (?P<reason>.*)")


@dataclass(frozen=True, kw_only=True)
class Callback:
    """A callback that is not delivered: PENDING while it will be tried again, at `next_try`, and FAILED after.

    Times are in Unix seconds.
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
    """A task that has not ended: its position among those that wait, or the host of its worker, and since when."""

    task_id: str
    status: str
    position: int | None
    deliveries: int
    host: str | None
    since: float | None


@dataclass(frozen=True, kw_only=True)
class QuarantinedTask:
    """A task that ended because it killed its worker too often; its request is kept."""

    task_id: str
    deliveries: int
    reason: str
    since: float | None


@dataclass(frozen=True, kw_only=True)
class AdminOutcome:
    """The tasks that something was done for, and those with which nothing is stored."""

    done: tuple[str, ...]
    unknown: tuple[str, ...]


def read_callbacks(backend: Backend, *, state: str | None = None) -> list[Callback]:
    """The callbacks that are not delivered; those in one `state` (PENDING or FAILED), or all."""
    kept = [Callback(**_only(Callback, entry)) for entry in _ask(backend, "callbacks")]
    return [callback for callback in kept if state in (None, callback.state)]


def read_tasks(backend: Backend) -> list[UnfinishedTask]:
    """The tasks that have not ended, a thousand at most: those that run, then those that wait, in their order."""
    return [UnfinishedTask(**_only(UnfinishedTask, entry)) for entry in _ask(backend, "tasks")]


def read_quarantined(backend: Backend) -> list[QuarantinedTask]:
    """The tasks that killed their worker too often."""
    return [QuarantinedTask(**_only(QuarantinedTask, entry)) for entry in _ask(backend, "quarantined")]


def resend(backend: Backend, task_ids: Sequence[str]) -> AdminOutcome:
    """Send the callbacks of these tasks again, now."""
    answer = _ask(backend, "resend", *task_ids)
    return AdminOutcome(done=tuple(answer["resent"]), unknown=tuple(answer["unknown"]))


def resend_failed(backend: Backend) -> AdminOutcome:
    """Send every callback that was given up again, now."""
    answer = _ask(backend, "resend-failed")
    return AdminOutcome(done=tuple(answer["resent"]), unknown=tuple(answer["unknown"]))


def replay(backend: Backend, task_ids: Sequence[str]) -> AdminOutcome:
    """Run these quarantined tasks again."""
    answer = _ask(backend, "replay", *task_ids)
    return AdminOutcome(done=tuple(answer["replayed"]), unknown=tuple(answer["unknown"]))


def discard(backend: Backend, task_ids: Sequence[str]) -> AdminOutcome:
    """Remove these tasks from quarantine, with their requests: they cannot be run again."""
    answer = _ask(backend, "discard", *task_ids)
    return AdminOutcome(done=tuple(answer["discarded"]), unknown=tuple(answer["unknown"]))


def check_callbacks_known(outcome: AdminOutcome) -> None:
    """Raise TaskUnknown when a task has no callback that could be sent again."""
    if outcome.unknown:
        raise TaskUnknown(
            f"No callback is stored of {', '.join(outcome.unknown)}.",
            hint="See which are not delivered: denzel callbacks",
        )


def check_tasks_known(outcome: AdminOutcome) -> None:
    """Raise TaskUnknown when a task is not in quarantine."""
    if outcome.unknown:
        raise TaskUnknown(
            f"Not in quarantine: {', '.join(outcome.unknown)}.", hint="See what is: denzel tasks --quarantined"
        )


def as_data(entries: Sequence[Callback | UnfinishedTask | QuarantinedTask]) -> list[dict[str, Any]]:
    """What JSON can say of them."""
    return [asdict(entry) for entry in entries]


def _ask(backend: Backend, *words: str) -> Any:
    """The program's answer; raises ServiceNotRunning, also when Redis does not answer."""
    try:
        return json.loads(_execute(backend, words))
    except CommandFailed as error:
        line = _REDIS_AWAY_LINE.search(error.stderr)
        if error.code != _REDIS_AWAY or line is None:
            raise
        reason = line["reason"].strip().rstrip(".")
        raise ServiceNotRunning(f"redis does not answer: {reason}.", hint="denzel logs --service redis") from None


def _execute(backend: Backend, words: Sequence[str]) -> str:
    """The output of the program that the project has; raises CommandFailed."""
    try:
        return backend.execute(Service.DENZEL, [*PROGRAM, *words])
    except CommandFailed as error:
        if _IS_FLAT not in error.stderr:
            raise
    return backend.execute(Service.DENZEL, [*FLAT_PROGRAM, *words])


def _only(kind: type[Any], entry: dict[str, Any]) -> dict[str, Any]:
    """What `kind` has a place for: the serving code of a newer release may say more."""
    return {name: entry[name] for name in kind.__dataclass_fields__}
