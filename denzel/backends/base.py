"""The contract of a backend: few primitives, on which lifecycle.py and status.py build what users see."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from denzel.errors import ServiceNotRunning
from denzel.services import Service, ServiceReport, State


@dataclass(frozen=True, kw_only=True)
class BuildStep:
    """One step of a build: what `status` says meanwhile, and a line for whoever watches."""

    state: State
    text: str


def not_running(service: Service) -> ServiceNotRunning:
    """What a backend raises when it is asked for something inside a service that does not run."""
    return ServiceNotRunning(f"The service {service.value} is not running.", hint="denzel start")


class Backend(ABC):
    """The services of one project. Methods raise DenzelError subclasses only, for what a user can act on."""

    name: ClassVar[str]

    #: Whether requirements.sh would change the user's own machine, and so needs their consent.
    changes_the_machine: ClassVar[bool] = False

    @abstractmethod
    def check(self) -> None:
        """Raise BackendUnavailable, or ToolMissing, unless this backend can run services here."""

    @abstractmethod
    def is_launched(self) -> bool:
        """Whether anything of the project's services is there, running or stopped."""

    @abstractmethod
    def check_name_is_free(self) -> None:
        """Raise AlreadyLaunched when another project folder runs under this project's name."""

    @abstractmethod
    def build(self, on_step: Callable[[BuildStep], None], *, stamps: Mapping[str, str]) -> None:
        """Install the requirements beside what runs now; raises BuildFailed with the end of the output.

        `stamps` are the settings OS_REQUIREMENTS_UPDATED and PIP_REQUIREMENTS_UPDATED to build with, in place of those
        in .env: where one differs from the last build's, its requirements are installed anew, at their newest versions.
        """

    @abstractmethod
    def up(self) -> None:
        """Make and start every service that is missing, stopped or outdated; leave the others alone."""

    @abstractmethod
    def stop(self) -> None:
        """Stop every service gracefully; what is stopped or missing is no error."""

    @abstractmethod
    def down(self, *, purge: bool) -> None:
        """Remove the services. With `purge`, remove their stored data and what was built too, and wait for no work that
        is under way. What is gone is no error.
        """

    @abstractmethod
    def holds_data(self) -> bool:
        """Whether data of the project is stored, as `purge` would remove it."""

    @abstractmethod
    def services(self) -> dict[Service, ServiceReport]:
        """Every service with its state."""

    @abstractmethod
    def logs(self, services: Collection[Service], *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        """The lines that services printed, each after its service's name; `tail` lines of each, or all."""

    @abstractmethod
    def shell(self, service: Service) -> int:
        """Open a shell in a service, on this terminal, and return its exit code; raises ServiceNotRunning."""

    @abstractmethod
    def execute(self, service: Service, argv: Sequence[str], *, stdin: str = "") -> str:
        """Run a program in a service, as its user, in the project folder and with its environment; its standard output.

        Raises ServiceNotRunning; and CommandFailed, with what the program said, also when there is no such program.
        """

    @abstractmethod
    def kill(self, service: Service) -> None:
        """End every process of a service at once (SIGKILL), and return when they have ended; raises ServiceNotRunning.

        It is a crash and no stop: what keeps the services running starts it again.
        """

    @abstractmethod
    def processor_time(self) -> dict[Service, float]:
        """For how many seconds the processors have worked for each service that runs, since it was started.

        It may raise BackendUnavailable, and leaves out a service that ends meanwhile.
        """

    @abstractmethod
    def redis(self, *command: str) -> Any:
        """Run one command on the project's Redis: text, numbers, None, lists and dicts; raises ServiceNotRunning.

        The command may be run more than once.
        """
