"""The docker backend without an engine: its commands, and the errors for their output."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from denzel.backends.base import BuildStep
from denzel.backends.docker.backend import DockerBackend
from denzel.errors import BackendUnavailable, BuildFailed, CommandFailed, DenzelError, NotLaunched, ToolMissing
from denzel.project import dotenv
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import Service, State


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return start_project("iris", tmp_path)


@pytest.fixture
def backend(project: Project) -> DockerBackend:
    return DockerBackend(project, dotenv.load(project.env_file, {}))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a program written in sh on PATH, as the only one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("DOCKER_HOST", raising=False)

    def install(name: str, script: str) -> None:
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return install


NO_COMPOSE = """case "$1" in
version) echo 26.1.5+dfsg1 ;;
*) echo "docker: 'compose' is not a docker command." >&2; echo "See 'docker --help'" >&2; exit 1 ;;
esac"""

Install = Callable[[str, str], None]


def problem(action: Callable[[], object], kind: type[DenzelError]) -> DenzelError:
    """The error of exactly this kind that the action raises; it has a hint at what to do."""
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind
    assert caught.value.hint
    return caught.value


def test_check_passes_with_an_engine_and_compose(backend: DockerBackend, install: Install) -> None:
    install(
        "docker", 'case "$1" in version) echo 26.1.5+dfsg1 ;; compose) echo "Docker Compose version 2.26.1-4" ;; esac'
    )
    backend.check()


def test_check_without_the_docker_client(backend: DockerBackend, install: Install) -> None:
    missing = problem(backend.check, ToolMissing)
    assert str(missing) == "The program docker is not installed."
    assert "https://docs.docker.com/engine/install/" in missing.hint


def test_check_without_compose(backend: DockerBackend, install: Install) -> None:
    install("docker", NO_COMPOSE)
    missing = problem(backend.check, BackendUnavailable)
    assert str(missing) == "Docker has no Compose plugin (v2)."
    assert "https://docs.docker.com/compose/install/" in missing.hint


def test_check_with_the_old_compose_alone(backend: DockerBackend, install: Install) -> None:
    install("docker", NO_COMPOSE)
    install("docker-compose", "echo docker-compose version 1.29.2")
    assert "(v1)" in str(problem(backend.check, BackendUnavailable))


def test_check_without_a_running_engine(backend: DockerBackend, install: Install) -> None:
    said = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    install("docker", f"echo '{said}' >&2; exit 1")
    down = problem(backend.check, BackendUnavailable)
    assert "not running" in str(down)
    assert down.detail == said


def test_check_without_permission(backend: DockerBackend, install: Install) -> None:
    said = (
        "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get"
        ' "http://%2Fvar%2Frun%2Fdocker.sock/v1.45/version": dial unix /var/run/docker.sock: connect: permission denied'
    )
    install("docker", f"echo '{said}' >&2; exit 1")
    refused = problem(backend.check, BackendUnavailable)
    assert "permission" in str(refused)
    assert "usermod -aG docker" in refused.hint


@pytest.mark.parametrize("version", ["24.0.7", "20.10.24+dfsg1"])
def test_check_with_an_engine_that_is_too_old(backend: DockerBackend, install: Install, version: str) -> None:
    install("docker", f"echo {version}")
    old = problem(backend.check, BackendUnavailable)
    assert version in str(old)
    assert "25" in old.hint


@pytest.fixture
def forgetful_sdk() -> Iterator[None]:
    """The SDK does not close the socket with which it could not connect; Python warns when it collects it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.mark.usefixtures("forgetful_sdk")
def test_listing_containers_without_an_engine_is_an_error(
    backend: DockerBackend, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert "not running" in str(problem(backend.is_launched, BackendUnavailable))


@pytest.mark.usefixtures("forgetful_sdk")
def test_an_engine_of_a_context_that_is_not_there(backend: DockerBackend, install: Install, tmp_path: Path) -> None:
    install("docker", f"echo unix://{tmp_path}/none.sock")
    assert "not running" in str(problem(backend.services, BackendUnavailable))


def test_up_without_the_image(backend: DockerBackend, install: Install) -> None:
    install("docker", "echo 'Error response from daemon: No such image: denzel/iris:latest' >&2; exit 1")
    gone = problem(backend.up, NotLaunched)
    assert "denzel/iris" in str(gone)
    assert "denzel updatereqs" in gone.hint


def test_up_that_fails_otherwise_keeps_the_output_of_docker(backend: DockerBackend, install: Install) -> None:
    install("docker", "echo 'no space left on device' >&2; exit 1")
    with pytest.raises(CommandFailed) as failure:
        backend.up()
    assert failure.value.detail == "no space left on device"


def test_a_build_passes_the_stamps_over_the_settings(
    backend: DockerBackend, install: Install, project: Project
) -> None:
    install("docker", 'echo "$PIP_REQUIREMENTS_UPDATED $API_PORT $PWD $*" > arguments')
    backend.build(lambda step: None, stamps={"PIP_REQUIREMENTS_UPDATED": "2026-01-02T03:04:05Z"})
    assert (project.root / "arguments").read_text() == f"2026-01-02T03:04:05Z 8000 {project.root} compose build api\n"


def test_a_build_reports_its_steps_and_fails_with_its_output(backend: DockerBackend, install: Install) -> None:
    said = "ERROR: No matching distribution found for scikit-lern"
    output = f"#10 [api stage-0 6/8] RUN python -m pip install\n#10 0.312 {said}\n#10 ERROR: exit code: 1"
    install("docker", f"while read -r line; do echo \"$line\"; done <<'END'\n{output}\nEND\nexit 17")
    steps: list[BuildStep] = []
    with pytest.raises(BuildFailed, match="scikit-lern"):
        backend.build(steps.append, stamps={})
    assert [step.state for step in steps] == [State.INSTALLING_PIP]


def test_logs_are_free_of_screen_control(backend: DockerBackend, install: Install) -> None:
    # Compose 2.26 clears the line before it prints it, where there is no screen too.
    install("docker", "printf '\\033[2Kredis-1  | Ready\\n'")
    assert list(backend.logs([Service.REDIS])) == ["redis-1  | Ready"]
