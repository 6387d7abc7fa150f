"""The project without denzel: Compose alone, and the image alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.driving import Driven, Render, docker
from support.waiting import until

pytestmark = pytest.mark.docker


@pytest.fixture
def moved(render: Render, tmp_path: Path) -> Driven:
    """The project folder alone, copied to another place, with no containers."""
    project = render("docker")
    shutil.copytree(project.root, tmp_path / project.name)
    return Driven(tmp_path / project.name)


def test_the_folder_runs_with_compose_alone_and_the_image_without_the_folder(moved: Driven) -> None:
    moved.order(load_for=3)
    try:
        docker("compose", "up", "--build", "--detach", "--wait", cwd=moved.root)
        assert moved.get("/info").status_code == 200
        # The model takes its time: by its own address the project is found ready later.
        until(lambda: moved.get("/health/ready").status_code == 200, within=60, what="ready")
        assert moved.post({"echo": "no denzel here"}, prefer="wait=30").json()["echo"] == "no denzel here"
        docker("compose", "down", cwd=moved.root)

        compose = moved.root / "docker-compose.yml"
        compose.write_text(compose.read_text().replace("./app:/project/app:ro", "/dev/null:/dev/no-app:ro"))
        shutil.rmtree(moved.root / "app")
        docker("compose", "up", "--no-build", "--detach", "--wait", cwd=moved.root)
        assert moved.post({"echo": "from the image"}, prefer="wait=30").json()["echo"] == "from the image"
    finally:
        docker("compose", "down", "--volumes", "--rmi", "local", cwd=moved.root)
