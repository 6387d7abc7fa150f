"""The docker backend without an engine: its command lines, and how it understands what Docker says."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from denzel import settings
from denzel.backends.base import BuildStep
from denzel.backends.build_output import BuildReader, build_failure
from denzel.backends.docker import (
    DockerBackend,
    build_command,
    container_report,
    down_command,
    execute_command,
    logs_command,
    shell_command,
    up_command,
)
from denzel.errors import (
    BackendUnavailable,
    BuildFailed,
    CommandFailed,
    DenzelError,
    NotLaunched,
    PortTaken,
    ToolMissing,
)
from denzel.project import Project
from denzel.scaffold import start_project
from denzel.services import Service, ServiceReport, State

# ------------------------------------------------------------------ the command lines


def test_build_command_builds_the_one_image() -> None:
    assert build_command() == ["docker", "compose", "build", "api"]


def test_up_command_never_builds() -> None:
    assert up_command()[:5] == ["docker", "compose", "up", "--detach", "--no-build"]


def test_down_command_keeps_the_volume_unless_purging() -> None:
    assert down_command(purge=False) == ["docker", "compose", "down", "--remove-orphans"]
    assert down_command(purge=True) == ["docker", "compose", "down", "--remove-orphans", "--volumes"]


def test_logs_command_names_the_services() -> None:
    assert logs_command([Service.API, Service.REDIS], follow=False, tail=None)[-2:] == ["api", "redis"]
    assert logs_command([Service.API], follow=True, tail=0)[-4:] == ["--follow", "--tail", "0", "api"]


def test_shell_command_asks_for_a_terminal_only_where_there_is_one() -> None:
    assert "--no-TTY" not in shell_command(Service.API, terminal=True)
    assert shell_command(Service.API, terminal=False)[:5] == ["docker", "compose", "exec", "--no-TTY", "api"]


def test_execute_command_asks_for_no_terminal_and_keeps_the_arguments() -> None:
    command = execute_command(Service.DENZEL, ["python", "-m", "app", "--help"])
    assert command == ["docker", "compose", "exec", "--no-TTY", "denzel", "python", "-m", "app", "--help"]


# ------------------------------------------------------------------ what a build says

# A build of which the first command was taken from the cache.
BUILD = """\
#0 building with "default" instance using docker driver

#2 [api internal] load metadata for docker.io/library/python:3.13-slim
#2 DONE 0.0s

#4 [api stage-0 1/8] FROM docker.io/library/python:3.13-slim
#4 DONE 0.0s

#6 [api stage-0 2/8] WORKDIR /project
#6 CACHED

#7 [api stage-0 3/8] COPY requirements.sh ./
#7 CACHED

#8 [api stage-0 4/8] RUN bash requirements.sh
#8 CACHED

#9 [api stage-0 5/8] COPY runtime.txt requirements.txt ./
#9 DONE 0.0s

#10 [api stage-0 6/8] RUN --mount=type=cache,target=/root/.cache/pip     python -m pip install --upgrade
#10 0.648 Collecting celery==5.7.0 (from -r runtime.txt (line 2))
#10 0.700   Downloading falcon-4.4.0-cp313-cp313-manylinux_2_28_x86_64.whl (948 kB)
#10 0.969   Downloading scikit_learn-1.9.0-cp313-cp313-manylinux_2_28_x86_64.whl (9.5 MB)
#10 1.211      ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 9.5/9.5 MB 486.4 MB/s  0:00:00
#10 1.539 Installing collected packages: pytz, wcwidth, vine
#10 3.387 Successfully installed pytz-2026.6 wcwidth-0.9.4 vine-5.1.0
#10 DONE 3.5s

#11 [api stage-0 7/8] RUN groupadd --non-unique --gid "10001" denzel     && useradd --non-unique --uid "10001" denzel
#11 DONE 0.2s

#12 [api stage-0 8/8] COPY . .
#12 DONE 0.0s

#13 [api] exporting to image
#13 exporting layers 0.2s done
#13 naming to docker.io/denzel/iris done
#13 DONE 0.2s"""


def steps_of(output: str | list[str]) -> list[BuildStep]:
    """What a build with this output tells."""
    reader = BuildReader()
    lines = output.splitlines() if isinstance(output, str) else output
    return [step for line in lines for step in reader.feed(line)]


def test_a_build_tells_what_it_runs_and_not_what_it_takes_from_the_cache() -> None:
    steps = steps_of(BUILD)
    assert [step.text.split()[0] for step in steps if step.text[0] != " "] == ["6/8", "7/8"]
    assert not any("requirements.sh" in step.text for step in steps)


def test_a_build_tells_of_large_downloads() -> None:
    details = [step for step in steps_of(BUILD) if step.text[0] == " "]
    assert [step.text.split()[0] for step in details] == ["Downloading", "Installing"]
    assert "scikit_learn" in details[0].text
    assert {step.state for step in details} == {State.INSTALLING_PIP}


@pytest.mark.parametrize("said", ["#8 0.135 hello", "#8 DONE 0.2s"], ids=["that says something", "that says nothing"])
def test_a_command_that_runs_is_told_with_what_it_installs(said: str) -> None:
    steps = steps_of(["#8 [api stage-0 4/8] RUN bash requirements.sh", said])
    assert steps == [BuildStep(state=State.INSTALLING_OS, text="4/8 requirements.sh")]
    steps = steps_of([f"#8 [api 6/8] {PIP}", said])
    assert [step.state for step in steps] == [State.INSTALLING_PIP]
    assert "pip install" in steps[0].text


def test_a_step_is_one_short_line() -> None:
    long = "&& apt-get install --yes libgomp1    " * 20
    (step,) = steps_of([f"#8 [api stage-0 4/9] RUN apt-get update {long}", "#8 0.1 hello"])
    assert len(step.text) < 120
    assert "  " not in step.text


PIP = (
    "RUN --mount=type=cache,target=/root/.cache/pip     python -m pip install --root-user-action=ignore --upgrade"
    " --constraint runtime.txt     --requirement runtime.txt --requirement requirements.txt"
)
PIP_SOLVE = 'failed to solve: process "/bin/sh -c python -m pip install" did not complete successfully: exit code: 1'


def pip_failure(*said: str) -> list[str]:
    """What BuildKit prints when pip fails, saying so."""
    return [
        "#8 [api stage-0 4/8] RUN bash requirements.sh",
        "#8 CACHED",
        "",
        f"#10 [api stage-0 6/8] {PIP}",
        *(f"#10 0.{312 + number} {line}" for number, line in enumerate(said)),
        '#10 ERROR: process "/bin/sh -c python -m pip install" did not complete successfully: exit code: 1',
        "------",
        f" > [api stage-0 6/8] {PIP}:",
        *(f"0.312 {line}" for line in said),
        "------",
        PIP_SOLVE,
    ]


def test_build_failure_of_an_unknown_package_names_it() -> None:
    failure = build_failure(
        "denzel/iris",
        pip_failure(
            "ERROR: Could not find a version that satisfies the requirement scikit-lern (from versions: none)",
            "ERROR: No matching distribution found for scikit-lern",
        ),
    )
    assert str(failure).startswith("The image denzel/iris could not be built: ")
    assert "scikit-lern" in str(failure)
    assert "requirements.txt" in failure.hint
    assert "No matching distribution found for scikit-lern" in failure.detail


def test_build_failure_of_a_malformed_line_quotes_it() -> None:
    failure = build_failure(
        "denzel/iris",
        pip_failure(
            "ERROR: Invalid requirement: '!!!': Expected package name at the start of dependency specifier",
            "    !!!",
            "    ^ (from line 4 of requirements.txt)",
        ),
    )
    assert "Invalid requirement: '!!!'" in str(failure)
    assert "requirements.txt" in failure.hint
    assert "line 4 of requirements.txt" in failure.detail


def test_build_failure_of_a_conflict_names_the_packages() -> None:
    failure = build_failure(
        "denzel/iris",
        pip_failure(
            "ERROR: Cannot install celery==5.5.0 and celery==5.7.0 because these package versions have"
            " conflicting dependencies.",
            "The conflict is caused by:",
            "    The user requested celery==5.7.0",
            "    The user requested celery==5.5.0",
            "ERROR: ResolutionImpossible: for help visit"
            " https://pip.pypa.io/en/latest/topics/dependency-resolution/#dealing-with-dependency-conflicts",
        ),
    )
    assert "Cannot install celery==5.5.0 and celery==5.7.0" in str(failure)
    assert "requirements.txt" in failure.hint


def test_build_failure_of_the_os_requirements_says_what_they_printed() -> None:
    failure = build_failure(
        "denzel/iris",
        [
            "#8 [api stage-0 4/8] RUN bash requirements.sh",
            "#8 0.135 hello",
            "#8 0.136 requirements.sh: line 5: no-such-command: command not found",
            '#8 ERROR: process "/bin/sh -c bash requirements.sh" did not complete successfully: exit code: 127',
            "------",
            " > [api stage-0 4/8] RUN bash requirements.sh:",
            "0.135 hello",
            "0.136 requirements.sh: line 5: no-such-command: command not found",
            "------",
            'failed to solve: process "/bin/sh -c bash requirements.sh" did not complete successfully: exit code: 127',
        ],
    )
    assert "requirements.sh" in str(failure)
    assert "127" in str(failure)
    assert failure.hint.startswith("Mend requirements.sh")
    assert "no-such-command: command not found" in failure.detail


def test_build_failure_before_any_step_says_what_docker_said() -> None:
    failure = build_failure(
        "denzel/iris",
        ["failed to solve: python:3.13-slim: failed to resolve source metadata: no such host"],
    )
    assert "no such host" in str(failure)
    assert "no such host" in failure.detail


# ------------------------------------------------------------------ what a container is


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
def test_container_report_puts_dockers_words_into_ours(attributes: dict[str, Any], state: State) -> None:
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


def test_a_word_of_docker_that_is_unknown_fails_loudly() -> None:
    with pytest.raises(KeyError, match="levitating"):
        container_report(inspected("levitating"))


# ------------------------------------------------------------------ a docker command that fails


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return start_project("iris", tmp_path)


@pytest.fixture
def backend(project: Project) -> DockerBackend:
    return DockerBackend(project, settings.load(project.env_file, {}))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a program written in sh on PATH, where there is no other."""
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
    """The error of exactly this kind that the action raises; one that says what to do."""
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
def test_an_engine_that_is_not_there_when_containers_are_asked_for(
    backend: DockerBackend, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert "not running" in str(problem(backend.is_launched, BackendUnavailable))


@pytest.mark.usefixtures("forgetful_sdk")
def test_an_engine_of_a_context_that_is_not_there(backend: DockerBackend, install: Install, tmp_path: Path) -> None:
    install("docker", f"echo unix://{tmp_path}/none.sock")
    assert "not running" in str(problem(backend.services, BackendUnavailable))


TAKEN = {
    "by a container": "Bind for 0.0.0.0:8000 failed: port is already allocated",
    "by a program": "Error starting userland proxy: listen tcp4 0.0.0.0:8000: bind: address already in use",
    "by a program, engine 28": "failed to bind host port for 0.0.0.0:8000:172.18.0.3:8080/tcp: address already in use",
    "by a program, engine 29": "failed to bind host port 0.0.0.0:8000/tcp: address already in use",
    "by a program, Docker Desktop": "ports are not available: exposing port TCP 0.0.0.0:8000 -> 127.0.0.1:0:"
    " listen tcp 0.0.0.0:8000: bind: address already in use",
}


@pytest.mark.parametrize("said", TAKEN.values(), ids=TAKEN)
def test_up_on_a_port_that_was_taken_meanwhile(backend: DockerBackend, install: Install, said: str) -> None:
    before = (
        "Error response from daemon: driver failed programming external connectivity on endpoint iris-api-1 (6dc25b7)"
    )
    install("docker", f"echo ' Container iris-redis-1  Started' >&2; echo '{before}: {said}' >&2; exit 1")
    taken = problem(backend.up, PortTaken)
    assert "Port 8000 " in str(taken)
    assert "--api-port" in taken.hint


def test_up_without_the_image(backend: DockerBackend, install: Install) -> None:
    install("docker", "echo 'Error response from daemon: No such image: denzel/iris:latest' >&2; exit 1")
    gone = problem(backend.up, NotLaunched)
    assert "denzel/iris" in str(gone)
    assert "denzel updatereqs" in gone.hint


def test_up_that_fails_otherwise_keeps_what_docker_said(backend: DockerBackend, install: Install) -> None:
    install("docker", "echo 'no space left on device' >&2; exit 1")
    with pytest.raises(CommandFailed) as failure:
        backend.up()
    assert failure.value.detail == "no space left on device"


def test_a_build_passes_the_stamps_over_the_settings(
    backend: DockerBackend, install: Install, project: Project
) -> None:
    install("docker", 'echo "$PIP_REQUIREMENTS_UPDATED $API_PORT $PWD $*" > said')
    backend.build(lambda step: None, stamps={"PIP_REQUIREMENTS_UPDATED": "2026-01-02T03:04:05Z"})
    assert (project.root / "said").read_text() == f"2026-01-02T03:04:05Z 8000 {project.root} compose build api\n"


def test_a_build_tells_its_steps_and_fails_with_its_output(backend: DockerBackend, install: Install) -> None:
    output = "\n".join(pip_failure("ERROR: No matching distribution found for scikit-lern"))
    install("docker", f"while read -r line; do echo \"$line\"; done <<'END'\n{output}\nEND\nexit 17")
    steps: list[BuildStep] = []
    with pytest.raises(BuildFailed, match="scikit-lern"):
        backend.build(steps.append, stamps={})
    assert [step.state for step in steps] == [State.INSTALLING_PIP]


def test_logs_are_free_of_screen_control(backend: DockerBackend, install: Install) -> None:
    # Compose 2.26 clears the line before it prints it, where there is no screen too.
    install("docker", "printf '\\033[2Kredis-1  | Ready\\n'")
    assert list(backend.logs([Service.REDIS])) == ["redis-1  | Ready"]
