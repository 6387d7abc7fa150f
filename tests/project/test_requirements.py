"""requirements.py: whose lines do not go together when uv or pip fails, and causes that no line has."""

from __future__ import annotations

from pathlib import Path

import pytest

from denzel.errors import BuildFailed
from denzel.project.requirements import explained

FAILED = BuildFailed("The requirements could not be installed: so.", hint="Fix requirements.txt.", detail="the end")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "runtime.txt").write_text(
        "# ours\ncelery==5.7.0\nredis==8.1.0\nuvicorn-worker==0.4.0\nuvicorn==0.54.0\n"
    )
    (tmp_path / "requirements.txt").write_text(
        "# mine\nnumpy\nclick==8.1.7  # frozen\nredis[hiredis] == 5.0.8\nNum_Ba<0.1\n"
    )
    return tmp_path


UV_SAME = (
    "error: No solution found when resolving dependencies cause: Because you require redis==8.1.0 and redis==5.0.8, we"
    " can conclude that your requirements are unsatisfiable."
)
UV_BELOW = (
    "Because celery>=5.7.0 depends on click>=8.3.1,<9.0 and you require celery==5.7.0, we can conclude that you"
    " require click>=8.3.1,<9.0. And because you require click==8.1.7, we can conclude that your requirements are"
    " unsatisfiable."
)
PIP_BELOW = (
    "ERROR: Cannot install -r runtime.txt (line 2) and click==8.1.7 because these package versions have conflicting"
    " dependencies.\nThe conflict is caused by:\n    The user requested click==8.1.7\n    celery 5.7.0 depends on"
    " click<9.0 and >=8.3.1\nERROR: ResolutionImpossible: for help visit https://pip.pypa.io/"
)


def test_two_wishes_for_one_package_are_both_named(root: Path) -> None:
    failure = explained(FAILED, root, UV_SAME)
    assert str(failure) == (
        "The requirements could not be installed: line 4 of requirements.txt, redis==5.0.8: this does not go with what"
        " denzel's serving code needs: line 3 of runtime.txt, redis==8.1.0."
    )
    assert failure.hint.startswith("Take redis==5.0.8 out of requirements.txt, unless app/logic itself imports it")
    assert failure.detail == "the end"


@pytest.mark.parametrize("output", [UV_BELOW, PIP_BELOW], ids=["uv", "pip"])
def test_a_wish_that_a_package_of_denzels_does_not_allow_names_that(root: Path, output: str) -> None:
    assert str(explained(FAILED, root, output)) == (
        "The requirements could not be installed: line 3 of requirements.txt, click==8.1.7: this does not go with what"
        " denzel's serving code needs: line 2 of runtime.txt, celery==5.7.0."
    )


def test_lines_of_the_user_alone_are_named_without_denzels(root: Path) -> None:
    output = "Because num-ba<0.1 depends on numpy<1 and you require numpy, your requirements are unsatisfiable."
    assert str(explained(FAILED, root, output)).endswith(
        "these do not go together: line 2 of requirements.txt, numpy and line 5 of requirements.txt, Num_Ba<0.1."
    )


@pytest.mark.parametrize(
    "output",
    [
        (
            "Because scikit-lern was not found in the package registry and you require scikit-lern, we can conclude"
            " that your requirements are unsatisfiable."
        ),
        "error: Failed to build `numpy==1.0`",
        "WARNING: Retrying (Retry(total=4, connect=None)) after connection broken by 'NewConnectionError(...)'",
    ],
)
def test_any_other_failure_is_left_as_it_is(root: Path, output: str) -> None:
    assert explained(FAILED, root, output) is FAILED


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("error: failed to write to file `/x`: No space left on device (os error 28)", "The disk is full"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        ("failed to solve: write /var/lib/docker/tmp: no space left on device", "The disk is full"),
        ("error: Failed to fetch: `https://pypi.org/simple/numpy/` cause: dns error", "Check your network"),
        ("cause: error sending request for url (https://pypi.org/simple/numpy/) cause: operation timed out", "Check"),
        ("WARNING: Retrying (Retry(total=0, connect=None))", "Check your network"),
        ("cause: invalid peer certificate: UnknownIssuer", "The package index has a certificate"),
        ("HTTP status client error (401 Unauthorized) for url", "The package index asks for credentials"),
        ("failed to create directory: Permission denied (os error 13)", "Make the project folder"),
    ],
)
def test_a_cause_that_lies_elsewhere_blames_no_line(root: Path, output: str, remedy: str) -> None:
    failure = explained(FAILED, root, output)
    assert failure.hint.startswith(remedy)
    assert "requirements.txt" not in failure.hint
