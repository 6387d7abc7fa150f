"""Errors that a user can act on: what is wrong, with its value, and the next step."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


class DenzelError(Exception):
    """Base of the errors that a user can act on: `hint` is the next step, `detail` the output of another program."""

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.detail = detail


class ProjectNotFound(DenzelError):
    """The current folder is not inside a project."""


class ProjectIncomplete(DenzelError):
    """A project of which a file is missing."""


class NameNotUsable(DenzelError):
    """A project cannot have this name, or not in this folder."""


class SettingInvalid(DenzelError):
    """A value or a line of .env, or of the environment, that is not allowed."""


class PortTaken(DenzelError):
    """Another program uses the port."""


class AlreadyLaunched(DenzelError):
    """`launch` of a project that is launched already."""


class NotLaunched(DenzelError):
    """A command that needs a launched project."""


class ProjectLocked(DenzelError):
    """Another denzel command is changing this project."""


class NotPermitted(DenzelError):
    """A file belongs to another user, or a command needs the user's consent."""


class StorageFailed(DenzelError):
    """A file that the system does not let us read or write: the disk is full, read-only, or failing."""


class BackendUnavailable(DenzelError):
    """The backend cannot run services here."""


class BuildFailed(DenzelError):
    """The image could not be built."""


class ServiceFailed(DenzelError):
    """A service does not come up, or the model does not load."""


class ServiceNotRunning(DenzelError):
    """A command needs a service that is not running."""


class TaskUnknown(DenzelError):
    """A task id for which nothing is stored that the command could act on, or nothing at all."""


class RequestUnusable(DenzelError):
    """A request of a drill or a bench that cannot be sent, or that the api refuses."""


class ConfirmationRequired(DenzelError):
    """A question that must be answered first, and there was no answer."""


class TooFewTasks(DenzelError):
    """A drill of fewer requests than it takes to see each part recover."""


class DrillFailed(DenzelError):
    """A drill that found a promise broken: a task lost or accepted twice, or a part that did not recover."""


class ToolMissing(DenzelError):
    """A program that denzel starts is not installed."""


class CommandFailed(DenzelError):
    """A program that denzel started failed; `detail` is its standard error."""

    def __init__(self, argv: Sequence[str], code: int, stderr: str) -> None:
        super().__init__(
            f"{shlex.join(argv)} failed with exit code {code}.",
            hint="Fix the cause, shown above, then repeat the command.",
            detail=stderr.strip(),
        )
        self.argv = list(argv)
        self.code = code
        self.stderr = stderr
