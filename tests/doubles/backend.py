"""An in-memory backend with states and data, which starts no process and fails on request."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from denzel.backends.base import Backend, BuildStep
from denzel.errors import AlreadyLaunched, CommandFailed, NotLaunched, ServiceNotRunning
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import Service, ServiceReport, State, worker_key, worker_name

_REQUIREMENTS = {
    "OS_REQUIREMENTS_UPDATED": BuildStep(state=State.INSTALLING_OS, text="1/2 requirements.sh"),
    "PIP_REQUIREMENTS_UPDATED": BuildStep(state=State.INSTALLING_PIP, text="2/2 requirements.txt"),
}


@dataclass
class Machine:
    """State between commands: everything that exists under one project name."""

    folder: Path | None = None
    services: dict[Service, State] = field(default_factory=dict)
    printed: dict[Service, list[str]] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    #: How many builds there were when the image was built, and when the services were made from it.
    image: int | None = None
    builds: int = 0
    running_image: int | None = None
    stamps: dict[str, str] = field(default_factory=dict)
    #: The stamp with which each kind of requirements was last installed.
    installed: dict[str, str] = field(default_factory=dict)
    #: How many times each service was killed, and started again.
    kills: dict[Service, int] = field(default_factory=dict)


class FakeBackend(Backend):
    """The services of one project on a `machine`.

    `done` lists the actions in order. `failures` maps the name of a method to the error that it raises. `comes_up_as`
    holds the state of a service after its start (UP by default), `worker` the worker's report. `answers` maps the
    argument list of a program to its output, or to the error that it raises; `executed` lists the programs in order.
    """

    name = "fake"

    def __init__(self, project: Project, settings: Settings, machine: Machine | None = None) -> None:
        self._project = project
        self._settings = settings
        self.machine = machine or Machine()
        self.done: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.comes_up_as: dict[Service, State] = {}
        self.worker: dict[str, str] = {"state": "UP", "cause": ""}
        self.shell_code = 0
        self.answers: dict[tuple[str, ...], str | Exception] = {}
        self.executed: list[tuple[Service, tuple[str, ...]]] = []
        self.rehearsed: list[tuple[Service, tuple[str, ...]]] = []
        self.changes_the_machine = False
        self.bounds_memory = True
        self.processor_times: dict[Service, float] = {}

    def check(self) -> None:
        self._do("check")

    def is_launched(self) -> bool:
        return bool(self.machine.services)

    def check_name_is_free(self) -> None:
        if self.machine.services and self.machine.folder != self._project.root:
            raise AlreadyLaunched(
                f"Another project runs under the name {self._settings.compose_name}: the one in {self.machine.folder}.",
                hint="Set another COMPOSE_PROJECT_NAME in this project's .env.",
            )

    def build(self, on_step: Callable[[BuildStep], None], *, stamps: Mapping[str, str]) -> None:
        wanted = {name: stamps.get(name, self._settings.texts[name]) for name in _REQUIREMENTS}
        for name, step in _REQUIREMENTS.items():
            if self.machine.installed.get(name) != wanted[name]:
                on_step(step)
        self._do("build")
        self.machine.installed = wanted
        self.machine.builds += 1
        self.machine.image = self.machine.builds
        self.machine.stamps = dict(stamps)

    def up(self) -> None:
        self._do("up")
        if self.machine.image is None:
            raise NotLaunched("The image is gone.", hint="Build it again: denzel updatereqs")
        self.machine.folder = self._project.root
        self.machine.running_image = self.machine.image
        for service in Service:
            if self.machine.services.get(service, State.DOWN) is State.DOWN:
                self.machine.services[service] = self.comes_up_as.get(service, State.UP)
                self.machine.printed.setdefault(service, []).append(f"{service.value} begins")
        self._data().update({self._worker_key: dict(self.worker)} if self.worker else {})

    def stop(self) -> None:
        self._do("stop")
        self.machine.services = dict.fromkeys(self.machine.services, State.DOWN)
        if self.machine.data is not None:
            self.machine.data.pop(self._worker_key, None)

    def down(self, *, purge: bool) -> None:
        self._do("down --purge" if purge else "down")
        self.machine.services = {}
        self.machine.printed = {}
        if purge:
            self.machine.data = None
            self.machine.image = None

    def holds_data(self) -> bool:
        return self.machine.data is not None

    def services(self) -> dict[Service, ServiceReport]:
        ports = {Service.API: self._settings.api_port, Service.MONITOR: self._settings.monitor_port}
        return {
            service: ServiceReport(state=self.machine.services[service], port=ports.get(service))
            if service in self.machine.services
            else ServiceReport(state=State.DOWN)
            for service in Service
        }

    def logs(self, services: Collection[Service], *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        if "logs" in self.failures:
            raise self.failures["logs"]
        for service in services:
            printed = self.machine.printed.get(service, [])
            yield from (f"{service.value}-1  | {line}" for line in printed[-tail if tail else 0 :])
        if follow and "follow" in self.failures:
            raise self.failures["follow"]

    def shell(self, service: Service) -> int:
        self._running(service)
        return self.shell_code

    def execute(self, service: Service, argv: Sequence[str], *, stdin: str = "") -> str:
        self._running(service)
        self.executed.append((service, tuple(argv)))
        answer = self.answers.get(tuple(argv))
        if isinstance(answer, Exception):
            raise answer
        return answer if answer is not None else self._program(argv, stdin)

    def rehearse(self, service: Service, argv: Sequence[str]) -> str:
        self.rehearsed.append((service, tuple(argv)))
        if "rehearse" in self.failures:
            raise self.failures["rehearse"]
        return ""

    def kill(self, service: Service) -> None:
        self._running(service)
        self._do(f"kill {service.value}")
        self.machine.kills[service] = self.machine.kills.get(service, 0) + 1

    def processor_time(self) -> dict[Service, float]:
        return {
            service: self.processor_times.get(service, 0.0)
            for service, state in self.machine.services.items()
            if state is not State.DOWN
        }

    def redis(self, *command: str) -> Any:
        self._running(Service.REDIS)
        name, *arguments = command
        return _COMMANDS[name](self._data(), *arguments)

    @property
    def _worker_key(self) -> str:
        return worker_key(worker_name(self._settings.compose_name))

    def _program(self, argv: Sequence[str], stdin: str) -> str:
        """A few programs, as far as tests run them."""
        name, *arguments = argv
        if name == "cat" and not arguments:
            return stdin
        if name == "cat":
            path = self._project.root / arguments[0]
            if path.exists():
                return path.read_text()
            raise CommandFailed(argv, 1, f"cat: {arguments[0]}: No such file or directory")
        if name == "printf":
            return arguments[1]
        if name == "printenv":
            return {**self._settings.texts, "PROJECT_NAME": self._settings.compose_name}[arguments[0]] + "\n"
        raise CommandFailed(argv, 127, f"{name}: cannot be run")

    def _do(self, action: str) -> None:
        if action in self.failures:
            raise self.failures[action]
        self.done.append(action)

    def _running(self, service: Service) -> None:
        if self.machine.services.get(service, State.DOWN) is not State.UP:
            raise ServiceNotRunning(f"The service {service.value} is not running.", hint="denzel start")

    def _data(self) -> dict[str, Any]:
        if self.machine.data is None:
            self.machine.data = {}
        return self.machine.data


# The commands of Redis that denzel sends, and a few that show each kind of answer.


def _set(data: dict[str, Any], key: str, value: str) -> str:
    data[key] = value
    return "OK"


def _hset(data: dict[str, Any], key: str, *pairs: str) -> int:
    stored = data.setdefault(key, {})
    new = dict(zip(pairs[::2], pairs[1::2], strict=True))
    added = len(new.keys() - stored.keys())
    stored.update(new)
    return added


def _lpush(data: dict[str, Any], key: str, *values: str) -> int:
    stored = data.setdefault(key, [])
    stored[:0] = reversed(values)
    return len(stored)


def _eval(data: dict[str, Any], script: str, number: str, *keys: str) -> list[Any]:
    """Run a script that returns the answers of some commands; denzel sends no others."""
    calls = re.findall(r"redis\.call\(([^)]*)\)", script)
    assert script == "return {" + ", ".join(f"redis.call({call})" for call in calls) + "}"
    names = {f"KEYS[{place}]": key for place, key in enumerate(keys, 1)}
    commands = [[names.get(word, word.strip("'")) for word in call.split(", ")] for call in calls]
    return [_COMMANDS[name](data, *arguments) for name, *arguments in commands]


_COMMANDS: dict[str, Callable[..., Any]] = {
    "SET": _set,
    "GET": lambda data, key: data.get(key),
    "DEL": lambda data, *keys: sum(data.pop(key, None) is not None for key in keys),
    "HSET": _hset,
    "HGETALL": lambda data, key: data.get(key, {}),
    "HMGET": lambda data, key, *names: [data.get(key, {}).get(name) for name in names],
    "HLEN": lambda data, key: len(data.get(key, {})),
    "LPUSH": _lpush,
    "ZADD": lambda data, key, *pairs: _hset(
        data, key, *(text for pair in zip(pairs[1::2], pairs[::2], strict=True) for text in pair)
    ),
    "ZCARD": lambda data, key: len(data.get(key, {})),
    "LLEN": lambda data, key: len(data.get(key, [])),
    "HVALS": lambda data, key: list(data.get(key, {}).values()),
    "EVAL": _eval,
    "LRANGE": lambda data, key, first, last: data.get(key, [])[int(first) :][: int(last) + 1 or None],
}
