"""The Docker Engine's client: states of containers, and lost output of redis-cli."""

from __future__ import annotations

from typing import Any

import pytest
from docker.models.containers import ExecResult
from support.command import refused

from denzel.backends.docker.engine import Engine, container_report
from denzel.errors import ServiceNotRunning
from denzel.services import ServiceReport, State


def inspected(status: str, *, health: str | None = None, restarts: int = 0, **bindings: str) -> dict[str, Any]:
    """The part of `docker inspect` that is read."""
    state: dict[str, Any] = {"Status": status, "Running": status == "running", "ExitCode": 0, "Error": ""}
    if health is not None:
        state["Health"] = {"Status": health, "FailingStreak": 0, "Log": []}
    ports = {f"{inner[1:]}/tcp": [{"HostIp": "0.0.0.0", "HostPort": outer}] for inner, outer in bindings.items()}
    return {"State": state, "RestartCount": restarts, "HostConfig": {"PortBindings": ports}}


CONTAINERS = {
    "healthy": (inspected("running", health="healthy"), State.UP),
    "healthy after restarts": (inspected("running", health="healthy", restarts=7), State.UP),
    "without a health check": (inspected("running"), State.UP),
    "starting": (inspected("running", health="starting"), State.STARTING),
    "starting again": (inspected("running", health="starting", restarts=1), State.STARTING),
    "starting again and again": (inspected("running", health="starting", restarts=2), State.ERROR),
    "unhealthy": (inspected("running", health="unhealthy"), State.ERROR),
    "between two crashes": (inspected("restarting", health="unhealthy", restarts=3), State.ERROR),
    "about to start": (inspected("created"), State.STARTING),
    "stopped": (inspected("exited", health="unhealthy"), State.DOWN),
    "paused": (inspected("paused", health="healthy"), State.DOWN),
    "being removed": (inspected("removing"), State.DOWN),
    "dead": (inspected("dead"), State.ERROR),
}


@pytest.mark.parametrize(("attributes", "state"), CONTAINERS.values(), ids=CONTAINERS)
def test_container_report_translates_dockers_states(attributes: dict[str, Any], state: State) -> None:
    assert container_report(attributes) == ServiceReport(state=state)


def test_container_report_of_one_that_could_not_be_started_is_an_error() -> None:
    attributes = inspected("created")
    attributes["State"] |= {"ExitCode": 128, "Error": "driver failed programming external connectivity on endpoint x"}
    assert container_report(attributes).state is State.ERROR


def test_container_report_has_the_published_port() -> None:
    assert container_report(inspected("running", health="healthy", _8000="18000")).port == 18000
    assert container_report(inspected("exited", _5555="15555")).port == 15555


def test_container_report_without_published_ports() -> None:
    attributes = inspected("running")
    for nothing in (None, {}, {"6379/tcp": None}, {"6379/tcp": []}, {"6379/tcp": [{"HostIp": "", "HostPort": ""}]}):
        attributes["HostConfig"]["PortBindings"] = nothing
        assert container_report(attributes).port is None


def test_an_unknown_state_of_docker_fails_loudly() -> None:
    with pytest.raises(KeyError, match="levitating"):
        container_report(inspected("levitating"))


@pytest.fixture
def engine() -> Engine:
    return Engine("iris")


class Container:
    """A container whose redis-cli prints these outputs, one after another, as they arrive."""

    def __init__(self, *outputs: bytes) -> None:
        self._outputs = list(outputs)

    def exec_run(self, argv: list[str]) -> ExecResult:
        return ExecResult(0, self._outputs.pop(0))


@pytest.mark.parametrize("lost", [b"", b'P","a cause"]\n'], ids=["all", "the beginning"])
def test_a_command_whose_output_is_lost_is_repeated(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, lost: bytes
) -> None:
    container = Container(lost, lost, b'["UP","a cause"]\n')
    monkeypatch.setattr(engine, "running", lambda service: container)
    assert engine.redis_cli(["HMGET", "a-key", "state", "cause"]) == ["UP", "a cause"]


def test_a_command_whose_output_is_lost_is_repeated_a_few_times_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "running", lambda service: Container(*[b""] * 100))
    with refused(ServiceNotRunning, "redis does not answer"):
        engine.redis_cli(["GET", "a-key"])
