"""Every error a user can meet: what is wrong with its value, then what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


class DenzelError(Exception):
    """Something the user can act on. `hint` is the next step; `detail` is what others said, such as a log."""

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.detail = detail


class ProjectNotFound(DenzelError):
    """The current folder is not inside a project."""


class NameNotUsable(DenzelError):
    """A project cannot be named so, or not here."""


class SettingInvalid(DenzelError):
    """A value, or a line, of .env or of the environment that cannot be."""


class PortTaken(DenzelError):
    """Another program has the port."""


class AlreadyLaunched(DenzelError):
    """`launch` of a project that is launched."""


class NotLaunched(DenzelError):
    """A command that needs a launched project."""


class ProjectLocked(DenzelError):
    """Another denzel command is changing this project."""


class NotPermitted(DenzelError):
    """A file belongs to another user, or a command needs the user's consent."""


class BackendUnavailable(DenzelError):
    """What runs the services cannot be used."""


class BuildFailed(DenzelError):
    """The image could not be built."""


class ServiceFailed(DenzelError):
    """A service does not come up, or its model does not load."""


class ServiceNotRunning(DenzelError):
    """A command needs a service that is not running."""


class TaskUnknown(DenzelError):
    """An id with which nothing is stored that the command could act on."""


class RequestUnusable(DenzelError):
    """A drill's request that cannot be sent, or that the api refuses."""


class ConfirmationRequired(DenzelError):
    """A question that must be answered first, and nobody is there to answer it."""


class TooFewTasks(DenzelError):
    """A drill of fewer requests than it needs to see what it kills recover."""


class DrillFailed(DenzelError):
    """A drill has seen what must not be: a task lost, made twice, or a part that does not recover."""


class ToolMissing(DenzelError):
    """A program that denzel starts is not installed."""


class CommandFailed(DenzelError):
    """A program that denzel started failed; `detail` is what it said."""

    def __init__(self, argv: Sequence[str], code: int, stderr: str) -> None:
        super().__init__(
            f"{shlex.join(argv)} failed with exit code {code}.",
            hint="Mend what it says above, then repeat the command.",
            detail=stderr.strip(),
        )
        self.argv = list(argv)
        self.code = code
        self.stderr = stderr
