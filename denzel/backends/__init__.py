"""What can run the services of a project."""

from __future__ import annotations

from denzel.backends.base import Backend
from denzel.project import Project
from denzel.settings import Settings


def open_backend(project: Project, settings: Settings) -> Backend:
    """The backend that the settings name."""
    # Imported here: the Docker SDK takes a third of a second, and no other command needs it.
    from denzel.backends.docker import DockerBackend

    return DockerBackend(project, settings)
