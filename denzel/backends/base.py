"""The contract of a backend: few primitives, on which the package `lifecycle` builds the commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from denzel.errors import ServiceNotRunning
from denzel.services import Service, ServiceReport, State


@dataclass(frozen=True, kw_only=True)
class BuildStep:
    """One step of a build: the state that `status` shows meanwhile, and a line of text for the user."""

    state: State
    text: str


def not_running(service: Service) -> ServiceNotRunning:
    """The error of a backend for a service that would have to run."""
    return ServiceNotRunning(f"The service {service.value} is not running.", hint="denzel start")


class Backend(ABC):
    """The services of one project. Its methods raise subclasses of DenzelError for all that a user can act on."""

    name: ClassVar[str]

    #: True when requirements.sh would change the user's own machine, and so needs their consent.
    changes_the_machine: ClassVar[bool] = False

    #: True when WORKER_MEMORY_MB holds here.
    bounds_memory: ClassVar[bool] = True

    @abstractmethod
    def check(self) -> None:
        """Raise BackendUnavailable, or ToolMissing, unless this backend can run services here."""

    @abstractmethod
    def is_launched(self) -> bool:
        """True when any service of the project exists, running or stopped."""

    @abstractmethod
    def check_name_is_free(self) -> None:
        """Raise AlreadyLaunched when another project folder runs under this project's name."""

    @abstractmethod
    def build(self, on_step: Callable[[BuildStep], None], *, stamps: Mapping[str, str]) -> None:
        """Install the requirements without touching what runs; raises BuildFailed with the end of the output.

        `stamps` are settings to build with in place of those in .env. When OS_REQUIREMENTS_UPDATED or
        PIP_REQUIREMENTS_UPDATED differs from the last build's, its requirements are installed at their newest versions.
        """

    @abstractmethod
    def up(self) -> None:
        """Create and start every service that is missing, stopped or outdated; leave the others alone."""

    @abstractmethod
    def stop(self) -> None:
        """Stop every service gracefully; a stopped or missing one is no error."""

    @abstractmethod
    def down(self, *, purge: bool) -> None:
        """Remove the services; a missing one is no error. With `purge`, remove stored data and the build too, without
        waiting for running tasks.
        """

    @abstractmethod
    def holds_data(self) -> bool:
        """True when there is stored data that `purge` would remove."""

    @abstractmethod
    def services(self) -> dict[Service, ServiceReport]:
        """Every service with its state."""

    @abstractmethod
    def logs(self, services: Collection[Service], *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        """The lines that services printed, each after its service's name; the last `tail` of each, or all."""

    @abstractmethod
    def shell(self, service: Service) -> int:
        """Open a shell in a service, on this terminal, and return its exit code; raises ServiceNotRunning."""

    @abstractmethod
    def execute(self, service: Service, argv: Sequence[str], *, stdin: str = "") -> str:
        """Run a program in a service, as its user, in the project folder, with its environment; return the output.

        Raises ServiceNotRunning, and CommandFailed with the program's standard error, also when it does not exist.
        """

    @abstractmethod
    def rehearse(self, service: Service, argv: Sequence[str]) -> str:
        """Run a program as a service would be started now, with the code, the settings and the packages of now, beside
        what runs; return the output.

        Raises CommandFailed with the program's standard error, and the errors of `up` when the build is gone.
        """

    @abstractmethod
    def kill(self, service: Service) -> None:
        """Kill every process of a service (SIGKILL), and return when they have ended; raises ServiceNotRunning.

        This is a crash and not a stop: whatever supervises the services restarts it.
        """

    @abstractmethod
    def processor_time(self) -> dict[Service, float]:
        """Seconds of processor time of each running service since its start; without one that ends meanwhile.

        May raise BackendUnavailable.
        """

    @abstractmethod
    def redis(self, *command: str) -> Any:
        """Run one command on the project's Redis, perhaps more than once; raises ServiceNotRunning.

        The reply is made of text, numbers, None, lists and dicts.
        """
