"""Projects that `startproject` renders, and names that it refuses."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from denzel.errors import NameNotUsable
from denzel.project import dotenv
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import Service

# The manual's skeleton, and what SPEC.md adds to it.
SKELETON = {
    ".dockerignore",
    ".env",
    ".gitignore",
    "Dockerfile",
    "README.md",
    "__init__.py",
    "app/__init__.py",
    "app/assets/example.json",
    "app/assets/info.txt",
    "app/logic/pipeline.py",
    "app/serving/README.md",
    "app/serving/api/asgi.py",
    "app/tasks.py",
    "docker-compose.yml",
    "entrypoints/api.sh",
    "entrypoints/denzel.sh",
    "entrypoints/monitor.sh",
    "entrypoints/redis.sh",
    "logs",
    "requirements.sh",
    "requirements.txt",
    "runtime.txt",
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return start_project("iris_classifier", tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ------------------------------------------------------------------ what is rendered


def test_a_project_has_the_files_of_the_manual(project: Project) -> None:
    assert {name for name in SKELETON if not (project.root / name).exists()} == set()


def test_placeholder_files_are_empty(project: Project) -> None:
    assert (project.root / "__init__.py").read_bytes() == b""
    assert (project.root / "app" / "__init__.py").read_bytes() == b""


def test_nothing_of_the_template_is_left_in_a_project(project: Project) -> None:
    files = [path for path in project.root.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix in (".jinja", ".pyc")] == []
    assert [path for path in files if re.search(r"\{\{ |\{%", path.read_text())] == []


def test_folders_can_be_entered_and_scripts_run(project: Project) -> None:
    for path in (project.root, *project.root.rglob("*")):
        if path.name in (".env", "pipeline.env"):
            assert mode(path) == 0o600
        elif path.is_dir() or path.suffix == ".sh":
            assert mode(path) == 0o755, path
        else:
            assert mode(path) == 0o644, path


def test_modes_do_not_depend_on_who_renders(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        project = start_project("iris", tmp_path)
    finally:
        os.umask(before)
    test_folders_can_be_entered_and_scripts_run(project)


def test_the_settings_are_good_ones_under_the_projects_name(project: Project) -> None:
    loaded = dotenv.load(project.env_file, {})
    assert loaded.compose_name == "iris_classifier"
    assert (int(loaded.texts["PROJECT_UID"]), int(loaded.texts["PROJECT_GID"])) == project.service_user


def test_each_project_has_secrets_of_its_own(tmp_path: Path) -> None:
    one, two = (dotenv.load(start_project(name, tmp_path).env_file, {}) for name in ("one", "two"))
    assert one.redis_password != two.redis_password
    assert one.monitor_password != two.monitor_password
    assert min(len(one.redis_password), len(one.monitor_password)) >= 24
    assert one.callback_secret != two.callback_secret
    assert one.callback_secret.startswith("whsec_")


def test_a_project_keeps_its_secrets_out_of_git_and_out_of_the_image(project: Project) -> None:
    assert ".env" in (project.root / ".gitignore").read_text().splitlines()
    assert ".env*" in (project.root / ".dockerignore").read_text().splitlines()
    for name in (".dockerignore", ".gitignore"):
        assert ".denzel/" in (project.root / name).read_text().splitlines()
    secret = dotenv.load(project.env_file, {}).redis_password
    assert [path for path in project.root.rglob("*") if path.is_file() and secret in path.read_text()] == [
        project.env_file
    ]


def test_a_gpu_changes_nothing_but_what_the_worker_reserves(project: Project, tmp_path: Path) -> None:
    """The packages bring CUDA's libraries along, the machine its driver: so CPU and GPU have one image."""
    with_gpu = start_project("with_gpu", tmp_path, gpu=True)
    for name in ("Dockerfile", ".dockerignore", "requirements.sh", "requirements.txt", "runtime.txt"):
        assert (with_gpu.root / name).read_bytes() == (project.root / name).read_bytes()
    assert re.findall("^FROM (.*)$", (project.root / "Dockerfile").read_text(), re.MULTILINE) == ["python:3.13-slim"]
    assert "nvidia" not in project.compose_file.read_text()
    assert "driver: nvidia" in with_gpu.compose_file.read_text()


@pytest.mark.parametrize("script", ["api.sh", "denzel.sh", "monitor.sh", "redis.sh", "health.sh"])
def test_the_scripts_are_good_bash(project: Project, script: str) -> None:
    path = project.root / "entrypoints" / script
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", path], check=True)


# ------------------------------------------------------------------ which names

GOOD_NAMES = {
    "iris": "iris",
    "iris_classifier": "iris_classifier",
    "Iris": "iris",
    "IRIS-2": "iris-2",
    "x": "x",
    "a" * 63: "a" * 63,
}
BAD_NAMES = [
    "",
    " ",
    "a b",
    "iris ",
    "iris\n",
    "-x",
    "--help",
    "_x",
    "2iris",
    ".",
    "..",
    "../x",
    "a/b",
    "/tmp/x",
    ".hidden",
    "iris.2",
    "íris",
    "a$b",
    "a;b",
    "a\\b",
    "iris_",
    "iris-",
    "a___b",
    "a_-b",
    "a" * 64,
]


@pytest.mark.parametrize(("name", "compose_name"), GOOD_NAMES.items())
def test_a_usable_name_is_lower_cased_for_compose(tmp_path: Path, name: str, compose_name: str) -> None:
    project = start_project(name, tmp_path)
    assert project.root == tmp_path / name
    assert dotenv.load(project.env_file, {}).compose_name == compose_name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_another_name_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(NameNotUsable) as refused:
        start_project(name, inside)
    assert repr(name) in str(refused.value)
    assert refused.value.hint
    assert list(tmp_path.rglob("*")) == [inside]


def test_a_folder_a_file_and_a_dangling_link_are_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("folder", "file", "link"):
        with pytest.raises(NameNotUsable, match=f"{tmp_path / name} already exists") as refused:
            start_project(name, tmp_path)
        assert refused.value.hint
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "link"]
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to, root neither")
def test_a_folder_that_cannot_be_written_to() -> None:
    with pytest.raises(NameNotUsable, match="/proc cannot be written to") as refused:
        start_project("iris", Path("/proc"))
    assert "cd" in refused.value.hint


def test_a_render_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """As on a full disk: no file may grow beyond 1,000 bytes, which the first few do not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            start_project("iris", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ what docker compose understands


def composed(project: Project) -> dict[str, Any]:
    """The project as `docker compose` understands it."""
    command = ["docker", "compose", "config", "--format", "json"]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    understood: dict[str, Any] = json.loads(done.stdout)
    return understood


@pytest.mark.docker
def test_compose_understands_a_project_without_gpu(project: Project) -> None:
    config = composed(project)
    assert config["name"] == "iris_classifier"
    assert set(config["services"]) == {service.value for service in Service}
    own = {service.value for service in Service if service.carries_requirements}
    assert {name for name, service in config["services"].items() if service["image"] == "denzel/iris_classifier"} == own
    assert not any(service.get("deploy") for service in config["services"].values())


@pytest.mark.docker
def test_compose_reserves_the_gpus_for_the_worker_alone(tmp_path: Path) -> None:
    services = composed(start_project("iris", tmp_path, gpu=True))["services"]
    devices = services["denzel"]["deploy"]["resources"]["reservations"]["devices"]
    assert [(device["driver"], device["count"], device["capabilities"]) for device in devices] == [
        ("nvidia", -1, ["gpu"])
    ]
    assert [name for name, service in services.items() if service.get("deploy")] == ["denzel"]
    assert not any("runtime" in service for service in services.values())


@pytest.mark.docker
def test_compose_publishes_the_api_and_the_monitor_and_never_redis(project: Project) -> None:
    published = {
        name: [(port["host_ip"], port["published"]) for port in service.get("ports", [])]
        for name, service in composed(project)["services"].items()
    }
    assert published == {"api": [("0.0.0.0", "8000")], "denzel": [], "monitor": [("127.0.0.1", "5555")], "redis": []}


@pytest.mark.docker
def test_compose_gives_no_service_more_than_it_needs(project: Project) -> None:
    for name, service in composed(project)["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "4"}}, name
        assert service["pids_limit"] == 8192, name
        assert service["healthcheck"]["test"], name


@pytest.mark.docker
def test_compose_needs_no_more_of_the_settings_than_the_secrets(project: Project) -> None:
    whole = composed(project)
    secrets = ("REDIS_PASSWORD", "MONITOR_PASSWORD", "CALLBACK_SECRET")
    needed = ("COMPOSE_PROJECT_NAME", *secrets, "PROJECT_UID", "PROJECT_GID")
    kept = [line for line in project.env_file.read_text().splitlines() if line.startswith(needed)]
    project.env_file.write_text("\n".join(kept))
    assert composed(project) == whole
