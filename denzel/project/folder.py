"""The project: found from any folder inside it, and its paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from denzel.errors import ProjectNotFound

#: The user that services run as when the project belongs to root, whom they must not be.
UNPRIVILEGED = 10001


@dataclass(frozen=True)
class Project:
    """A user's project folder."""

    root: Path

    @property
    def env_file(self) -> Path:
        return self.root / ".env"

    @property
    def compose_file(self) -> Path:
        return self.root / "docker-compose.yml"

    @property
    def pipeline(self) -> Path:
        return self.root / "app" / "logic" / "pipeline.py"

    @property
    def example(self) -> Path:
        """A request that POST /predict accepts."""
        return self.root / "app" / "assets" / "example.json"

    @property
    def has_os_requirements(self) -> bool:
        """Whether requirements.sh does anything."""
        text = (self.root / "requirements.sh").read_text(encoding="utf-8")
        return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def worker_log(self) -> Path:
        return self.logs / "worker.log"

    @property
    def service_user(self) -> tuple[int, int]:
        """User and group id that the services run as: the folder's owner, unless that is root."""
        status = self.root.stat()
        if status.st_uid == 0:
            return UNPRIVILEGED, UNPRIVILEGED
        return status.st_uid, status.st_gid or UNPRIVILEGED

    def hand_over_logs(self) -> None:
        """Give root's logs to the user that the services run as; any other owner's are theirs already."""
        if os.geteuid() == 0:
            for path in (self.logs, *self.logs.iterdir()):
                os.chown(path, *self.service_user)

    def open_entrypoints(self) -> None:
        """Let others read the entrypoints, whatever umask the folder was copied under: Redis has a user of its own."""
        folder = self.root / "entrypoints"
        for path in (folder, *folder.iterdir()):
            if path.stat().st_mode & 0o005 != 0o005:
                path.chmod(path.stat().st_mode | 0o055)

    @property
    def activity_file(self) -> Path:
        """Locked while a denzel command changes the project; says what it is doing."""
        return self.root / ".denzel" / "activity"


def find_project(start: Path) -> Project:
    """The project that `start` is in, or a folder above it; raises ProjectNotFound."""
    for folder in (start, *start.parents):
        project = Project(folder)
        if project.pipeline.is_file() and project.compose_file.is_file():
            return project
    raise ProjectNotFound(
        f"{start} is not inside a denzel project.",
        hint="Go to the folder of your project (cd), or make one: denzel startproject NAME",
    )
