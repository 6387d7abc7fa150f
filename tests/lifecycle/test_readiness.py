"""The wait for started services: the statuses it reports, and the errors that end it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doubles.backend import FakeBackend
from doubles.clock import Clock
from support.command import status

from denzel.errors import CommandFailed, ServiceFailed, ServiceNotRunning
from denzel.lifecycle.readiness import wait_until_ready
from denzel.project import dotenv as settings_file
from denzel.project.scaffold import start_project
from denzel.services import Service, State, Status


@pytest.fixture
def launched(tmp_path: Path) -> FakeBackend:
    project = start_project("iris", tmp_path)
    backend = FakeBackend(project, settings_file.load(project.env_file, {}))
    backend.build(lambda step: None, stamps={})
    backend.up()
    return backend


def wait(backend: FakeBackend, *story: Status | None) -> list[Status]:
    """The statuses that a wait reports when it reads these, in order."""
    seen: list[Status] = []
    clock = Clock()
    wait_until_ready(backend, iter(story).__next__, seen.append, clock=clock, sleep=clock.sleep)
    return seen


def failure(backend: FakeBackend, *story: Status | None) -> ServiceFailed:
    with pytest.raises(ServiceFailed) as caught:
        wait(backend, *story)
    return caught.value


def test_the_wait_ends_when_the_model_is_loaded(launched: FakeBackend) -> None:
    story = [status(State.LOADING, api=State.STARTING), status(State.LOADING), status()]
    assert wait(launched, *story, None) == story


@pytest.mark.parametrize(
    ("cause", "hint"),
    [
        ("load_model has started a thread. Set MODEL_SHARING=process in .env", "MODEL_SHARING=process"),
        ("ModuleNotFoundError: No module named 'sklearn'", "denzel updatereqs"),
        ("FileNotFoundError: [Errno 2] No such file: './app/assets/iris.pkl'", "app/assets"),
        ("SyntaxError: invalid syntax (pipeline.py, line 3)", "app/logic/pipeline.py"),
        ("a process died while loading the model", "WORKER_CONCURRENCY"),
        ("load_model ended its process with signal 9 (SIGKILL), as when memory runs out", "WORKER_CONCURRENCY"),
        ("UnpicklingError: invalid load key, 'v'.", "app/logic/pipeline.py"),
        ("ValueError: no such thing as a process died", "app/logic/pipeline.py"),
    ],
)
def test_a_model_that_does_not_load_is_reported(launched: FakeBackend, cause: str, hint: str) -> None:
    launched.machine.printed[Service.DENZEL] = [f"line {number}" for number in range(100)]
    problem = failure(launched, status(State.ERROR, cause=cause, denzel=State.STARTING))
    assert str(problem) == f"The model could not be loaded: {cause.removesuffix('.')}."
    assert hint in problem.hint
    assert problem.detail.splitlines()[-1] == "denzel-1  | line 99"
    assert len(problem.detail.splitlines()) == 20


def test_a_hint_of_the_worker_is_shown_as_it_is(launched: FakeBackend) -> None:
    failed = status(State.ERROR, cause="ModuleNotFoundError: No module named '_loss'", hint="Read it with 1.5.2.")
    assert failure(launched, failed).hint == "Read it with 1.5.2."


def test_functions_that_cannot_be_called_are_named(launched: FakeBackend) -> None:
    cause = "ContractError: predict(model, data) is missing"
    problem = failure(launched, status(State.ERROR, cause=cause, hint="Fix app/logic/pipeline.py."))
    assert str(problem) == "pipeline.py cannot be used: predict(model, data) is missing."
    assert problem.hint == "Fix app/logic/pipeline.py."


READY = ("bash", "entrypoints/health.sh", "ready")


def test_a_pipeline_that_the_api_alone_cannot_use_is_reported(launched: FakeBackend) -> None:
    fault = "pipeline.py cannot be imported: KeyError: 'TOKEN'"
    launched.answers[READY] = json.dumps({"ready": False, "broker": "UP", "pipeline": fault, "workers": []})
    launched.machine.printed[Service.API] = ["Traceback"]
    problem = failure(launched, status())
    assert str(problem) == f"The api refuses every request: {fault}."
    assert problem.detail == "api-1  | Traceback"


@pytest.mark.parametrize(
    "answer",
    ['{"ready": true}', "", "[]", CommandFailed(READY, 64, "usage: health.sh"), ServiceNotRunning("api")],
    ids=["ready", "empty", "list", "earlier", "down"],
)
def test_an_api_that_reports_no_fault_is_ready(launched: FakeBackend, answer: str | Exception) -> None:
    launched.answers[READY] = answer
    assert wait(launched, status()) == [status()]


def test_a_service_that_fails_is_reported_with_its_log(launched: FakeBackend) -> None:
    launched.machine.printed[Service.API] = ["Traceback", "boom"]
    problem = failure(launched, status(api=State.ERROR))
    assert str(problem) == "The service api does not come up."
    assert "denzel logs --service api" in problem.hint
    assert problem.detail == "api-1  | Traceback\napi-1  | boom"


def test_a_worker_that_fails_without_a_cause_is_a_failing_service(launched: FakeBackend) -> None:
    problem = failure(launched, *[status(State.ERROR, denzel=State.ERROR)] * 7)
    assert str(problem) == "The service denzel does not come up."


def test_a_worker_between_two_starts_may_still_report_the_cause(launched: FakeBackend) -> None:
    silent, loading = status(State.ERROR, denzel=State.ERROR), status(State.LOADING, denzel=State.ERROR)
    problem = failure(launched, silent, silent, loading)
    assert str(problem) == "The model could not be loaded: a process died while loading the model."


def test_a_worker_that_dies_while_loading_could_not_load_the_model(launched: FakeBackend) -> None:
    problem = failure(launched, status(State.LOADING), status(State.LOADING, denzel=State.ERROR))
    assert str(problem) == "The model could not be loaded: a process died while loading the model."


def test_a_service_that_goes_down_is_reported_after_a_while(launched: FakeBackend) -> None:
    problem = failure(launched, *[status(monitor=State.DOWN)] * 22)
    assert str(problem) == "The service monitor does not stay up."


def test_a_service_may_be_down_for_a_moment(launched: FakeBackend) -> None:
    # Twice, for as long as may be: a service that came back in between begins anew.
    down = [status(monitor=State.DOWN)] * 21
    assert len(wait(launched, *down, status(State.LOADING), *down, status())) == 44


def test_services_that_are_removed_meanwhile_end_the_wait(launched: FakeBackend) -> None:
    assert "removed" in str(failure(launched, status(State.LOADING), None))
