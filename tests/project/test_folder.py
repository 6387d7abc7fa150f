"""Search for the project from any folder inside it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from denzel.errors import ProjectIncomplete, ProjectNotFound
from denzel.project.folder import NEEDED, UNPRIVILEGED, Project, find_project
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
def test_the_file_is_named_for_lack_of_which_a_folder_is_no_project(project: Project, missing: str) -> None:
    (project.root / missing).unlink()
    with pytest.raises(ProjectIncomplete, match=f"is not a whole project: {missing} is missing") as half:
        find_project(project.root / "entrypoints")
    assert f"git checkout {missing}" in half.value.hint


def test_a_project_of_2019_is_recognised(project: Project) -> None:
    for later in ("runtime.txt", "requirements.sh", ".env"):
        (project.root / later).unlink()
    with pytest.raises(ProjectIncomplete, match=r"denzel 0\.1\.5") as old:
        find_project(project.root)
    assert "Copy app/assets, app/logic and requirements.txt into it" in old.value.hint


def test_a_folder_with_another_program_is_no_project(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").touch()
    with pytest.raises(ProjectNotFound):
        find_project(tmp_path)


def test_a_new_project_is_complete(project: Project) -> None:
    project.check_complete()


@pytest.mark.parametrize("missing", NEEDED)
def test_each_file_that_is_needed_is_missed(project: Project, missing: str) -> None:
    (project.root / missing).unlink()
    with pytest.raises(ProjectIncomplete):
        project.check_complete()


def test_logs_that_were_removed_are_made_again(project: Project) -> None:
    shutil.rmtree(project.logs)
    project.hand_over_logs()
    assert project.logs.is_dir()


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
