"""Parsing the output of an image build: its steps, and the cause of a failure."""

from __future__ import annotations

import re

import pytest
from support.paths import PROJECT

from denzel.backends.base import BuildStep
from denzel.backends.docker.build_output import BuildReader, build_failure
from denzel.services import State

# A build of which the first command was taken from the cache.
BUILD = """\
#0 building with "default" instance using docker driver

#2 [api internal] load metadata for docker.io/library/python:3.13-slim
#2 DONE 0.0s

#4 [api stage-0  1/11] FROM docker.io/library/python:3.13-slim
#4 DONE 0.0s

#6 [api stage-0  4/11] RUN --mount=type=cache,target=/root/.cache/pip     python -m venv /opt/venv     && pip install
#6 CACHED

#7 [api stage-0  5/11] COPY requirements.sh ./
#7 CACHED

#8 [api stage-0  6/11] RUN bash -eo pipefail requirements.sh     && rm -rf /var/lib/apt/lists/*
#8 CACHED

#9 [api stage-0  7/11] COPY requirements.txt ./
#9 DONE 0.0s

#10 [api stage-0  8/11] RUN --mount=type=cache,target=/root/.cache/pip     pip install --upgrade
#10 0.648 Requirement already satisfied: celery==5.7.0 in /opt/venv/lib/python3.13/site-packages (from -r runtime.txt)
#10 0.700   Downloading falcon-4.4.0-cp313-cp313-manylinux_2_28_x86_64.whl (948 kB)
#10 0.969   Downloading scikit_learn-1.9.0-cp313-cp313-manylinux_2_28_x86_64.whl (9.5 MB)
#10 1.211      ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 9.5/9.5 MB 486.4 MB/s  0:00:00
#10 1.539 Installing collected packages: pytz, wcwidth, vine
#10 3.387 Successfully installed pytz-2026.6 wcwidth-0.9.4 vine-5.1.0
#10 DONE 3.5s

#11 [api stage-0  9/11] RUN groupadd --non-unique --gid "10001" denzel     && useradd --non-unique --uid "10001" denzel
#11 DONE 0.2s

#12 [api stage-0 10/11] COPY --chown=denzel:denzel app/assets app/assets
#12 DONE 0.0s

#13 [api] exporting to image
#13 exporting layers 0.2s done
#13 naming to docker.io/denzel/iris done
#13 DONE 0.2s"""


# What a project's Dockerfile runs, as BuildKit prints it.
COMMANDS = [
    command.replace("\\\n", "")
    for command in re.findall(r"^RUN ((?:.*\\\n)*.*)", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
]
RUNTIME, OS, PIP, *_ = COMMANDS


def steps_of(output: str | list[str]) -> list[BuildStep]:
    """The steps in this output of a build."""
    reader = BuildReader()
    lines = output.splitlines() if isinstance(output, str) else output
    return [step for line in lines for step in reader.feed(line)]


def test_a_build_has_steps_for_what_it_runs_and_none_from_the_cache() -> None:
    steps = steps_of(BUILD)
    assert [step.text.split()[0] for step in steps if step.text[0] != " "] == ["8/11", "9/11"]
    assert not any("requirements.sh" in step.text for step in steps)


def test_a_build_has_steps_for_large_downloads() -> None:
    details = [step for step in steps_of(BUILD) if step.text[0] == " "]
    assert [step.text.split()[0] for step in details] == ["Downloading", "Installing"]
    assert "scikit_learn" in details[0].text
    assert {step.state for step in details} == {State.INSTALLING_PIP}


@pytest.mark.parametrize("said", ["#8 0.135 hello", "#8 DONE 0.2s"], ids=["with output", "without output"])
def test_a_step_names_what_its_command_of_the_dockerfile_does(said: str) -> None:
    steps = [step for command in COMMANDS for step in steps_of([f"#8 [api stage-0 4/8] RUN {command}", said])]
    assert steps == [
        BuildStep(state=State.INSTALLING_PIP, text="4/8 pip install, of runtime.txt"),
        BuildStep(state=State.INSTALLING_OS, text="4/8 requirements.sh"),
        BuildStep(state=State.INSTALLING_PIP, text="4/8 pip install, of requirements.txt"),
        BuildStep(state=State.INSTALLING_OS, text="4/8 the user of the services"),
        BuildStep(state=State.INSTALLING_OS, text="4/8 the files of the project"),
    ]


def test_a_step_is_one_short_line() -> None:
    long = "&& apt-get install --yes libgomp1    " * 20
    (step,) = steps_of([f"#8 [api stage-0 4/9] RUN apt-get update {long}", "#8 0.1 hello"])
    assert len(step.text) < 120
    assert "  " not in step.text


def failed(command: str, *said: str, code: int = 1) -> list[str]:
    """The output of BuildKit when a command fails with this message."""
    reason = f'process "/bin/sh -c {command}" did not complete successfully: exit code: {code}'
    return [
        "#7 [api stage-0  5/11] COPY requirements.sh ./",
        "#7 CACHED",
        "",
        f"#10 [api stage-0  8/11] RUN {command}",
        *(f"#10 0.{312 + number} {line}" for number, line in enumerate(said)),
        f"#10 ERROR: {reason}",
        "------",
        f" > [api stage-0  8/11] RUN {command}:",
        *(f"0.312 {line}" for line in said),
        "------",
        f"failed to solve: {reason}",
    ]


def test_build_failure_of_an_unknown_package_names_it() -> None:
    failure = build_failure(
        "denzel/iris",
        failed(
            PIP,
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
        failed(
            PIP,
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
        failed(
            PIP,
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


def test_build_failure_of_the_runtime_blames_no_requirement_of_the_user() -> None:
    failure = build_failure("denzel/iris", failed(RUNTIME, "ERROR: Failed to build 'uvloop'"))
    assert str(failure).endswith("Failed to build 'uvloop'.")
    assert failure.hint.startswith("Fix the cause")


def test_build_failure_of_the_os_requirements_has_their_output() -> None:
    said = ("hello", "requirements.sh: line 5: no-such-command: command not found")
    failure = build_failure("denzel/iris", failed(OS, *said, code=127))
    assert "requirements.sh" in str(failure)
    assert "127" in str(failure)
    assert failure.hint.startswith("Fix requirements.sh")
    assert "no-such-command: command not found" in failure.detail


def test_build_failure_before_any_step_has_the_message_of_docker() -> None:
    failure = build_failure(
        "denzel/iris", ["failed to solve: python:3.13-slim: failed to resolve source metadata: no such host"]
    )
    assert "no such host" in str(failure)
    assert "no such host" in failure.detail
