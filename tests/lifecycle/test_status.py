"""Status: the services' states and the worker's report in one value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doubles.backend import FakeBackend

from app.serving.store.workers import WorkerState
from denzel.lifecycle.status import read_status
from denzel.project import dotenv, lock
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import DIED_LOADING, Service, ServiceReport, State, Status, WorkerReport, loads_key, worker_key

WORKER = "worker@iris"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return start_project("iris", tmp_path)


@pytest.fixture
def backend(project: Project) -> FakeBackend:
    return FakeBackend(project, dotenv.load(project.env_file, {}))


def launch(backend: FakeBackend) -> None:
    backend.build(lambda step: None, stamps={})
    backend.up()


def read(project: Project, backend: FakeBackend) -> Status:
    status = read_status(project, backend, name="iris")
    assert status is not None
    return status


def test_a_project_that_was_never_launched_has_no_status(project: Project, backend: FakeBackend) -> None:
    assert read_status(project, backend, name="iris") is None


def test_everything_is_up_when_the_model_is_loaded(project: Project, backend: FakeBackend) -> None:
    launch(backend)
    assert read(project, backend) == Status(
        services={
            Service.DENZEL: ServiceReport(state=State.UP),
            Service.MONITOR: ServiceReport(state=State.UP, port=5555),
            Service.API: ServiceReport(state=State.UP, port=8000),
            Service.REDIS: ServiceReport(state=State.UP),
        },
        worker=WorkerReport(name=WORKER, state=State.UP),
    )
    assert read(project, backend).ready


@pytest.mark.parametrize("state", WorkerState)
def test_every_state_that_a_worker_reports_is_shown(project: Project, backend: FakeBackend, state: WorkerState) -> None:
    backend.worker = {"state": state.value, "cause": "ValueError: no" if state is WorkerState.ERROR else ""}
    launch(backend)
    seen = read(project, backend)
    assert seen.worker == WorkerReport(name=WORKER, state=State[state.name], cause=backend.worker["cause"])
    assert seen.ready is (state is WorkerState.UP)


def test_warnings_that_a_worker_reports_are_in_the_status(project: Project, backend: FakeBackend) -> None:
    warned = {"shown": ["UserWarning: old"], "more": 2}
    backend.worker = {"state": "UP", "cause": "", "warnings": json.dumps(warned)}
    launch(backend)
    worker = read(project, backend).worker
    assert (worker.warnings, worker.more_warnings) == (("UserWarning: old",), 2)


def test_a_worker_that_has_not_reported_is_loading(project: Project, backend: FakeBackend) -> None:
    backend.worker = {}
    launch(backend)
    assert read(project, backend).worker == WorkerReport(name=WORKER, state=State.LOADING)


def test_a_silent_worker_in_a_failing_service_is_failing(project: Project, backend: FakeBackend) -> None:
    backend.worker = {}
    backend.comes_up_as = {Service.DENZEL: State.ERROR}
    launch(backend)
    assert read(project, backend).worker == WorkerReport(name=WORKER, state=State.ERROR)


@pytest.mark.parametrize("report", [{}, {"state": "LOADING", "cause": ""}])
@pytest.mark.parametrize("service", [State.STARTING, State.UP, State.ERROR])
def test_a_worker_that_died_while_loading_is_failing_before_and_after_its_restart(
    project: Project, backend: FakeBackend, report: dict[str, str], service: State
) -> None:
    backend.worker = report
    backend.comes_up_as = {Service.DENZEL: service}
    launch(backend)
    backend.redis("HSET", loads_key(WORKER), "a-host", "DIED")
    assert read(project, backend).worker == WorkerReport(name=WORKER, state=State.ERROR, cause=DIED_LOADING)


def test_a_loading_worker_without_a_report_has_died(project: Project, backend: FakeBackend) -> None:
    backend.worker = {"state": "LOADING", "cause": ""}
    launch(backend)
    backend.redis("HSET", loads_key(WORKER), "a-host", "LOADING")
    assert read(project, backend).worker == WorkerReport(name=WORKER, state=State.LOADING)
    backend.redis("DEL", worker_key(WORKER))
    assert read(project, backend).worker == WorkerReport(name=WORKER, state=State.ERROR, cause=DIED_LOADING)


@pytest.mark.parametrize(("state", "cause"), [("UP", ""), ("ERROR", "ValueError: no")])
def test_a_report_of_the_worker_outweighs_an_earlier_death(
    project: Project, backend: FakeBackend, state: str, cause: str
) -> None:
    backend.worker = {"state": state, "cause": cause}
    launch(backend)
    backend.redis("HSET", loads_key(WORKER), "a-host", "DIED")
    assert read(project, backend).worker == WorkerReport(name=WORKER, state=State[state], cause=cause)


def test_a_worker_whose_redis_is_starting_is_loading(project: Project, backend: FakeBackend) -> None:
    backend.comes_up_as = {Service.REDIS: State.STARTING}
    launch(backend)
    assert read(project, backend).worker.state is State.LOADING


@pytest.mark.parametrize("service", [Service.DENZEL, Service.REDIS])
def test_a_worker_without_its_service_is_down(project: Project, backend: FakeBackend, service: Service) -> None:
    launch(backend)
    backend.machine.services[service] = State.DOWN
    assert read(project, backend).worker == WorkerReport(name=WORKER, state=State.DOWN)


def test_an_old_report_does_not_count_in_a_stopped_project(project: Project, backend: FakeBackend) -> None:
    launch(backend)
    backend.stop()
    assert backend.machine.data is not None
    backend.machine.data[worker_key(WORKER)] = {"state": "UP", "cause": ""}
    seen = read(project, backend)
    assert {report.state for report in seen.services.values()} == {State.DOWN}
    assert seen.worker.state is State.DOWN


def test_a_report_of_another_project_is_not_ours(project: Project, backend: FakeBackend) -> None:
    launch(backend)
    status = read_status(project, backend, name="another")
    assert status is not None
    assert status.worker == WorkerReport(name="worker@another", state=State.LOADING)


@pytest.mark.parametrize("installing", [State.INSTALLING_OS, State.INSTALLING_PIP])
def test_a_build_shows_in_the_services_that_carry_the_requirements(
    project: Project, backend: FakeBackend, installing: State
) -> None:
    with lock.exclusive(project.lock_file) as set_state:
        set_state(installing)
        first = read(project, backend)
        launch(backend)
        again = read(project, backend)
    assert {service: report.state for service, report in first.services.items()} == {
        Service.DENZEL: installing,
        Service.MONITOR: installing,
        Service.API: installing,
        Service.REDIS: State.DOWN,
    }
    assert first.worker.state is State.DOWN
    assert again.services[Service.API] == ServiceReport(state=installing, port=8000)
    assert again.services[Service.REDIS].state is State.UP
    assert not again.ready
    assert read(project, backend).ready
