"""Admin commands for a running deployment: `python -m app.serving.admin COMMAND [ARGUMENT ...]`.

Prints one JSON document. Exits with 1 when Redis is away, and with 64 for bad usage, with the reason in one line on
stderr.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis import Redis, RedisError

from app.serving.callback_uri import without_password
from app.serving.settings import SettingError, Settings
from app.serving.store.connection import connect
from app.serving.store.dead_letters import DeadLetters
from app.serving.store.outbox import Outbox
from app.serving.store.tasks import TaskStore

#: Exit codes; 64 is EX_USAGE of sysexits.h.
FAILED = 1
BAD_USAGE = 64

#: Tasks on a page, at most.
MAX_LISTED = 1000


class BadUsage(Exception):
    """The command does not exist, or its arguments are invalid."""


@dataclasses.dataclass(frozen=True)
class Deployment:
    """The deployment that a command runs on."""

    redis: Redis
    settings: Settings

    @property
    def outbox(self) -> Outbox:
        return Outbox(
            self.redis, result_ttl=self.settings.result_lifetime, callback_ttl=self.settings.callback_lifetime
        )


def callbacks(deployment: Deployment, arguments: Sequence[str]) -> Any:
    """List the callbacks that were not delivered, the oldest first."""
    _no_arguments(arguments)
    return [
        {**dataclasses.asdict(callback), "uri": without_password(callback.uri)}
        for callback in deployment.outbox.undelivered()
    ]


def resend(deployment: Deployment, arguments: Sequence[str]) -> Any:
    """Send the callbacks of these tasks now."""
    if not arguments:
        raise BadUsage("resend needs the id of a task")
    return _resent(deployment.outbox.resend(arguments))


def resend_failed(deployment: Deployment, arguments: Sequence[str]) -> Any:
    """Send now every callback that was given up."""
    _no_arguments(arguments)
    return _resent(deployment.outbox.resend_failed())


def tasks(deployment: Deployment, arguments: Sequence[str]) -> Any:
    """List the tasks that have not ended, from an offset on: those that run, then those that wait; and count them."""
    try:
        (offset,) = [int(argument) for argument in arguments]
    except ValueError:
        raise BadUsage(f"tasks needs one number, the offset, and got: {' '.join(arguments) or 'nothing'}") from None
    page = TaskStore(deployment.redis).unfinished(offset=offset, limit=MAX_LISTED)
    tasks = [dataclasses.asdict(task) for task in page.tasks]
    return {"tasks": tasks, "claimed": page.claimed, "waiting": page.waiting}


def quarantined(deployment: Deployment, arguments: Sequence[str]) -> Any:
    """List the tasks that killed their process too often, the oldest first."""
    _no_arguments(arguments)
    return [dataclasses.asdict(task) for task in DeadLetters(deployment.redis).read()]


def replay(deployment: Deployment, arguments: Sequence[str]) -> Any:
    """Run these quarantined tasks again."""
    if not arguments:
        raise BadUsage("replay needs the id of a task")
    dead_letters = DeadLetters(deployment.redis)
    replayed = [task_id for task_id in dict.fromkeys(arguments) if dead_letters.replay(task_id)]
    return {"replayed": replayed, "unknown": [task_id for task_id in arguments if task_id not in replayed]}


def discard(deployment: Deployment, arguments: Sequence[str]) -> Any:
    """Delete these quarantined tasks."""
    if not arguments:
        raise BadUsage("discard needs the id of a task")
    dead_letters = DeadLetters(deployment.redis)
    discarded = [task_id for task_id in dict.fromkeys(arguments) if dead_letters.discard(task_id)]
    return {"discarded": discarded, "unknown": [task_id for task_id in arguments if task_id not in discarded]}


COMMANDS: dict[str, Callable[[Deployment, Sequence[str]], Any]] = {
    "callbacks": callbacks,
    "resend": resend,
    "resend-failed": resend_failed,
    "tasks": tasks,
    "quarantined": quarantined,
    "replay": replay,
    "discard": discard,
}


def run(arguments: Sequence[str], deployment: Deployment) -> Any:
    """Run one command; returns JSON values. Raises BadUsage, and redis.RedisError when Redis is away."""
    if not arguments or arguments[0] not in COMMANDS:
        raise BadUsage(f"the command is one of {', '.join(COMMANDS)}")
    return COMMANDS[arguments[0]](deployment, arguments[1:])


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command, print what it returns, and return the exit code."""
    try:
        settings = Settings.from_environment(environ)
        with connect(settings.redis_url) as redis:
            result = run(arguments, Deployment(redis, settings))
    except BadUsage as error:
        return _fail(str(error), BAD_USAGE)
    except SettingError as error:
        return _fail(str(error), FAILED)
    except RedisError as error:
        return _fail(f"Redis cannot be asked: {error}", FAILED)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _fail(reason: str, code: int) -> int:
    sys.stderr.write(" ".join(reason.split()) + "\n")
    return code


def _no_arguments(arguments: Sequence[str]) -> None:
    if arguments:
        raise BadUsage(f"this command takes no argument: {arguments[0]}")


def _resent(ids: tuple[list[str], list[str]]) -> dict[str, list[str]]:
    resent, unknown = ids
    return {"resent": resent, "unknown": unknown}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
