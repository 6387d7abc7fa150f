"""Backends: the programs that run a project's services."""

from __future__ import annotations

from denzel.backends.base import Backend
from denzel.project.dotenv import Settings
from denzel.project.folder import Project


def open_backend(project: Project, settings: Settings) -> Backend:
    """The backend that the settings name."""
    # Imported here: each needs libraries that the other does not, and that are slow to import.
    if settings.backend == "local":
        from denzel.backends.local.backend import LocalBackend

        return LocalBackend(project, settings)
    from denzel.backends.docker.backend import DockerBackend

    return DockerBackend(project, settings)
