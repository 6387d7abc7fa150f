"""Search for the project from any folder inside it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from denzel.errors import ProjectNotFound
from denzel.project.folder import UNPRIVILEGED, Project, find_project
from denzel.project.scaffold import start_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return start_project("iris", tmp_path)


@pytest.mark.parametrize("inside", [".", "app", "app/logic", "app/assets", "logs", "entrypoints"])
def test_a_project_is_found_from_any_folder_inside_it(project: Project, inside: str) -> None:
    assert find_project(project.root / inside) == project


def test_the_innermost_project_is_found(project: Project) -> None:
    inner = start_project("inner", project.root)
    assert find_project(inner.root / "app") == inner


def test_no_project_is_found_outside_one(project: Project) -> None:
    with pytest.raises(ProjectNotFound, match=str(project.root.parent)) as nowhere:
        find_project(project.root.parent)
    assert "denzel startproject NAME" in nowhere.value.hint


@pytest.mark.parametrize("missing", ["docker-compose.yml", "app/logic/pipeline.py"])
def test_a_folder_with_half_of_a_project_is_none(project: Project, missing: str) -> None:
    (project.root / missing).unlink()
    with pytest.raises(ProjectNotFound):
        find_project(project.root)


def test_its_paths_are_the_rendered_ones(project: Project) -> None:
    assert project.env_file.is_file()
    assert project.compose_file.is_file()
    assert project.pipeline.is_file()
    assert project.logs.is_dir()
    assert project.worker_log.parent == project.logs


def test_services_run_as_the_owner_but_never_as_root(project: Project) -> None:
    uid, gid = project.service_user
    if os.geteuid() == 0:
        assert (uid, gid) == (UNPRIVILEGED, UNPRIVILEGED)
        os.chown(project.root, 1234, 0)
        assert project.service_user == (1234, UNPRIVILEGED)
    else:
        assert uid == os.geteuid()
    assert uid > 0
    assert gid > 0


def test_the_services_can_write_into_the_logs_folder(project: Project) -> None:
    project.hand_over_logs()
    assert project.logs.stat().st_uid == project.service_user[0]
    assert stat.S_IMODE(project.logs.stat().st_mode) & stat.S_IWUSR


def test_the_entrypoints_are_opened_to_the_user_of_redis(project: Project) -> None:
    """As when the folder was cloned under umask 077."""
    folder = project.root / "entrypoints"
    for path in (*folder.iterdir(), folder):
        path.chmod(0o700)
    project.open_entrypoints()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())} == {0o755}
