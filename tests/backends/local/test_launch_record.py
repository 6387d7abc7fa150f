"""The record of a launch, and the environments made of it."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest

from denzel.backends.local.launch_record import CACHES, LaunchRecord, LaunchRecordFile
from denzel.backends.local.processes import MARK
from denzel.project import dotenv as settings_file
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import Service


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = start_project("iris", tmp_path)
    (project.root / ".denzel").mkdir(exist_ok=True)
    return project


@pytest.fixture
def record(project: Project) -> LaunchRecord:
    settings = settings_file.load(project.env_file, {}).texts
    folder = os.path.realpath(project.root)
    return LaunchRecord(folder=folder, venv="/v", server="/bin/redis-server", redis_port=4711, settings=settings)


def test_a_record_is_read_back_and_only_its_owner_may_read_it(project: Project, record: LaunchRecord) -> None:
    file = LaunchRecordFile(project)
    assert file.read() is None
    file.write(record)
    assert file.read() == record
    assert stat.S_IMODE((project.root / ".denzel" / "run.json").stat().st_mode) == 0o600
    file.remove()
    file.remove()
    assert file.read() is None


def test_the_record_of_another_folder_does_not_count(project: Project, record: LaunchRecord) -> None:
    LaunchRecordFile(project).write(record)
    moved = project.root.rename(project.root.parent / "moved")
    assert LaunchRecordFile(Project(moved)).read() is None


def test_the_record_of_an_earlier_release_is_read(project: Project, record: LaunchRecord) -> None:
    names = {"folder": record.folder, "venv": "/v", "server": "/bin/redis-server", "redis_port": 4711}
    (project.root / ".denzel" / "run.json").write_text(json.dumps({**names, "settings": record.settings}))
    assert LaunchRecordFile(project).read() == record


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"folder": "x"}', '{"unknown": 1}'])
def test_a_broken_record_does_not_count(project: Project, text: str) -> None:
    (project.root / ".denzel" / "run.json").write_text(text)
    assert LaunchRecordFile(project).read() is None


def test_a_service_is_given_its_own_settings_and_where_the_others_are(record: LaunchRecord) -> None:
    given = record.variables(Service.MONITOR)
    assert given["MONITOR_BIND"] == "127.0.0.1:5555"
    assert given["OWN_SERVICES"] == "localhost:4711,localhost:8000,localhost:5555"
    assert "MONITOR_PASSWORD" in given
    assert "MONITOR_PASSWORD" not in record.variables(Service.REDIS)


def test_a_setting_of_an_earlier_release_is_passed_on_where_it_is_set(record: LaunchRecord) -> None:
    given = record.variables(Service.DENZEL)
    earlier = dataclasses.replace(record, settings={**record.settings, "BATCH_WAIT_MS": "5"})
    assert earlier.variables(Service.DENZEL) == {**given, "BATCH_WAIT_MS": "5"}
    assert earlier.variables(Service.API) == record.variables(Service.API)


def test_a_launch_before_there_was_a_setting_goes_without(record: LaunchRecord) -> None:
    settings = {name: text for name, text in record.settings.items() if name != "WORKER_MAX_TASKS"}
    given = record.variables(Service.DENZEL)
    del given["WORKER_MAX_TASKS"]
    assert dataclasses.replace(record, settings=settings).variables(Service.DENZEL) == given


def test_downloads_are_kept_in_the_project_unless_the_user_has_a_place_for_them(
    record: LaunchRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", "/home/ann/models")
    monkeypatch.setenv("TORCH_HOME", "")
    given = record.environment(tmp_path)
    cache = f"{record.folder}/.denzel/cache"
    assert {name: given[name] for name in CACHES} == {
        "XDG_CACHE_HOME": cache,
        "HF_HOME": "/home/ann/models",
        "TORCH_HOME": f"{cache}/torch",
        "KERAS_HOME": f"{cache}/keras",
    }


def test_every_process_has_the_mark_and_finds_the_programs_of_its_environment(
    record: LaunchRecord, tmp_path: Path
) -> None:
    given = record.environment(tmp_path)
    assert given[MARK] == record.folder
    assert given["PATH"].split(os.pathsep)[0] == "/v/bin"
    assert given["TMPDIR"] == str(tmp_path)
