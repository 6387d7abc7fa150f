"""Containers, images and their privileges."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.driving import DENZEL, Driven, docker
from support.lab import ALL_DOWN, ALL_UP
from support.waiting import until

from denzel.project import dotenv

pytestmark = pytest.mark.docker

on_docker = pytest.mark.parametrize("shared", ["docker"], indirect=True)


@on_docker
@pytest.mark.parametrize("command", ["start", "restart"])
def test_a_container_removed_by_hand_comes_back(lab: Driven, command: str) -> None:
    docker("rm", "--force", lab.container("monitor"))
    assert lab.states()["monitor"] == "DOWN"
    lab.denzel(command)
    assert lab.states() == ALL_UP


@on_docker
def test_stop_does_not_mind_a_container_removed_by_hand(lab: Driven) -> None:
    docker("rm", "--force", lab.container("denzel"))
    lab.denzel("stop")
    assert lab.states() == ALL_DOWN


@on_docker
def test_containers_run_without_privileges_and_the_log_belongs_to_the_project(lab: Driven) -> None:
    owner = dotenv.read(lab.root / ".env")["PROJECT_UID"]
    for service in ("api", "denzel", "monitor"):
        facts = lab.denzel(
            "shell", "--service", service, stdin="id -u; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status\n"
        )
        assert facts.split() == [owner, "CapEff:", "0000000000000000", "NoNewPrivs:", "1"]
    assert str((lab.root / "logs" / "worker.log").stat().st_uid) == owner
    assert (
        docker("inspect", "--format", "{{json .NetworkSettings.Ports}}", lab.container("redis")) == '{"6379/tcp":null}'
    )
    assert "NOAUTH" in lab.denzel("shell", "--service", "redis", stdin="env -u REDISCLI_AUTH redis-cli keys '*'\n")


@on_docker
@pytest.mark.parametrize("service", ALL_UP)
def test_the_log_of_each_container_is_bounded(lab: Driven, service: str) -> None:
    log = json.loads(docker("inspect", "--format", "{{json .HostConfig.LogConfig}}", lab.container(service)))
    assert log == {"Type": "json-file", "Config": {"max-file": "4", "max-size": "10m"}}
    assert docker("inspect", "--format", "{{.HostConfig.PidsLimit}}", lab.container(service)) == "8192"


@on_docker
def test_another_folder_with_the_same_project_name_is_refused(lab: Driven, tmp_path: Path) -> None:
    shutil.copytree(lab.root, tmp_path / "copy")
    copy = Driven(tmp_path / "copy")
    for command in ("launch", "stop", "shutdown"):
        said = copy.denzel(command, code=1)
        assert f"Another project runs under the name {lab.name}: the one in {lab.root}." in said
    assert lab.states() == ALL_UP


@on_docker
def test_requirements_sh_is_run_while_the_image_is_built(lab: Driven) -> None:
    (lab.root / "requirements.sh").write_text("echo made by requirements.sh >/etc/denzel-was-here\n")
    updating = subprocess.Popen([DENZEL, "updateosreqs"], cwd=lab.root, stdout=subprocess.PIPE, text=True)
    until(lambda: lab.states()["api"] == "OS COMMANDS..." or updating.poll() is not None, within=120)
    assert updating.poll() is None, "it was announced while it ran"
    output, _ = updating.communicate(timeout=600)
    assert updating.returncode == 0, output
    assert lab.denzel("shell", stdin="cat /etc/denzel-was-here\n") == "made by requirements.sh\n"


@on_docker
def test_a_shell_opens_in_every_service(lab: Driven) -> None:
    assert lab.denzel("shell", stdin="pwd; whoami\n").splitlines() == ["/project", "denzel"]
    assert lab.denzel("shell", "--service", "redis", stdin="redis-cli ping\n").splitlines() == ["PONG"]
