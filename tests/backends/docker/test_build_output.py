"""Parsing the output of an image build: its steps, and the cause of a failure."""

from __future__ import annotations

import pytest

from denzel.backends.base import BuildStep
from denzel.backends.docker.build_output import BuildReader, build_failure
from denzel.services import State

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
    """The steps in this output of a build."""
    reader = BuildReader()
    lines = output.splitlines() if isinstance(output, str) else output
    return [step for line in lines for step in reader.feed(line)]


def test_a_build_has_steps_for_what_it_runs_and_none_from_the_cache() -> None:
    steps = steps_of(BUILD)
    assert [step.text.split()[0] for step in steps if step.text[0] != " "] == ["6/8", "7/8"]
    assert not any("requirements.sh" in step.text for step in steps)


def test_a_build_has_steps_for_large_downloads() -> None:
    details = [step for step in steps_of(BUILD) if step.text[0] == " "]
    assert [step.text.split()[0] for step in details] == ["Downloading", "Installing"]
    assert "scikit_learn" in details[0].text
    assert {step.state for step in details} == {State.INSTALLING_PIP}


@pytest.mark.parametrize("said", ["#8 0.135 hello", "#8 DONE 0.2s"], ids=["that says something", "that says nothing"])
def test_a_step_names_what_its_command_installs(said: str) -> None:
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
    """The output of BuildKit when pip fails with this message."""
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


def test_build_failure_of_the_os_requirements_has_their_output() -> None:
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
    assert failure.hint.startswith("Fix requirements.sh")
    assert "no-such-command: command not found" in failure.detail


def test_build_failure_before_any_step_has_the_message_of_docker() -> None:
    failure = build_failure(
        "denzel/iris",
        ["failed to solve: python:3.13-slim: failed to resolve source metadata: no such host"],
    )
    assert "no such host" in str(failure)
    assert "no such host" in failure.detail
