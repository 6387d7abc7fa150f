"""The image of a project, built for real: its layers, and rebuilds after a change."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterator

import pytest
from support.driving import docker

from denzel.project.folder import Project
from denzel.project.scaffold import start_project

pytestmark = pytest.mark.docker

MODEL_BYTES = 5_000_000


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project for a GPU, of which there is an image."""
    project = start_project(f"image-{secrets.token_hex(4)}", tmp_path_factory.mktemp("image"), gpu=True)
    build(project)
    yield project
    docker("image", "rm", "--force", name(project))
    docker("image", "prune", "--force", "--filter", f"label=com.docker.compose.project={project.root.name}")


def name(project: Project) -> str:
    return f"denzel/{project.root.name}"


def build(project: Project) -> str:
    """Build the image, as a user of Compose alone does; what BuildKit printed."""
    done = subprocess.run(
        ["docker", "compose", "build"],
        cwd=project.root,
        env={**os.environ, "BUILDKIT_PROGRESS": "plain"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def is_cached(output: str, command: str) -> bool:
    """True when the one command of the Dockerfile with these words was taken from the cache."""
    (step,) = set(re.findall(rf"^#(\d+) \[[^]]*\] RUN .*{command}", output, re.MULTILINE))
    return f"\n#{step} CACHED\n" in output


def layers(project: Project) -> list[str]:
    return docker("image", "inspect", "--format", '{{join .RootFS.Layers " "}}', name(project)).split()


def size(project: Project) -> int:
    return int(docker("image", "inspect", "--format", "{{.Size}}", name(project)))


def inside(project: Project, *command: str) -> str:
    return docker("run", "--rm", name(project), *command)


def test_the_image_of_a_gpu_project_serves_as_the_projects_user(project: Project) -> None:
    assert inside(project, "python", "-c", "import app.serving.settings, celery; print('yes')") == "yes"
    assert (
        inside(project, "stat", "--format", "%U", "app/serving", "app/assets/info.txt", "logs").split()
        == ["denzel"] * 3
    )


def test_a_new_requirement_is_installed_and_denzels_own_packages_are_not_again(project: Project) -> None:
    # A line that no earlier run has built.
    (project.root / "requirements.txt").write_text(f"toolz  # {secrets.token_hex(8)}\n")
    output = build(project)
    assert is_cached(output, "--requirement runtime.txt$")
    assert is_cached(output, "requirements.sh")
    installed = re.findall(r"Successfully installed (.*)", output)
    assert [re.sub(r"-[\d.]+$", "", names) for names in installed] == ["toolz"]
    assert inside(project, "python", "-c", "import toolz; print('yes')") == "yes"


@pytest.mark.parametrize("requirement", ["celery<5", "click<8"], ids=["of a pin", "of what a pin needs"])
def test_a_requirement_can_not_change_a_version(project: Project, requirement: str) -> None:
    """pip prints the same for a package that denzel's own packages need."""
    (project.root / "requirements.txt").write_text(f"{requirement}\n")
    with pytest.raises(AssertionError, match=f"Cannot install .*{requirement}.* conflicting dependencies"):
        build(project)
    (project.root / "requirements.txt").write_text("")


def test_a_model_is_sent_once_and_in_one_layer_that_the_code_leaves_alone(project: Project) -> None:
    build(project)
    before = size(project)
    (project.root / "app" / "assets" / "model.bin").write_bytes(os.urandom(MODEL_BYTES))
    assert len(set(re.findall(r"^#(\d+) \[.*\] load build context", build(project), re.MULTILINE))) == 1
    assert MODEL_BYTES <= size(project) - before < 1.1 * MODEL_BYTES
    with_model = layers(project)
    with (project.root / "app" / "logic" / "pipeline.py").open("a") as pipeline:
        pipeline.write("# changed\n")
    build(project)
    assert layers(project)[:-1] == with_model[:-1]
    assert layers(project)[-1] != with_model[-1]
    sizes = docker("history", "--human=false", "--format", "{{.Size}}", name(project)).split()
    assert next(int(size) for size in sizes if size != "0") < MODEL_BYTES


def test_the_example_of_requirements_sh_leaves_nothing_of_apt(project: Project) -> None:
    script = project.root / "requirements.sh"
    script.write_text(script.read_text().replace("#     apt-get", "apt-get"))
    before = size(project)
    build(project)
    assert "libgomp1" in inside(project, "dpkg-query", "--show", "libgomp1")
    assert (
        inside(project, "sh", "-c", "ls /var/lib/apt/lists /var/cache/apt") == "/var/cache/apt:\n\n/var/lib/apt/lists:"
    )
    assert size(project) - before < 5_000_000
