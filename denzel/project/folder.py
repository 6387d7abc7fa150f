"""A user's project folder: its paths, its owner, and the search for it from any folder inside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from denzel.errors import ProjectIncomplete, ProjectNotFound

#: User and group id of the services in a project that belongs to root; as root they must not run.
UNPRIVILEGED = 10001

#: The files by which a folder is known as a project.
MARKERS = ("app/logic/pipeline.py", "docker-compose.yml", "runtime.txt")

#: All files that denzel or the services need, of every release since 2026; the serving code proves itself.
NEEDED = (
    *MARKERS,
    ".env",
    "Dockerfile",
    "app/tasks.py",
    *(f"entrypoints/{name}.sh" for name in ("api", "denzel", "health", "monitor", "redis")),
    "requirements.sh",
    "requirements.txt",
)


@dataclass(frozen=True)
class Project:
    """A user's project folder."""

    root: Path

    @property
    def env_file(self) -> Path:
        return self.root / ".env"

    @property
    def pipeline_env(self) -> Path:
        """Variables of the user's own code."""
        return self.root / "pipeline.env"

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
        """True when requirements.sh has a line that is neither empty nor a comment."""
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
        """User and group id of the services: the folder's owner, unless that is root."""
        status = self.root.stat()
        if status.st_uid == 0:
            return UNPRIVILEGED, UNPRIVILEGED
        return status.st_uid, status.st_gid or UNPRIVILEGED

    def check_complete(self) -> None:
        """Raise ProjectIncomplete when a file is missing that denzel or the services need."""
        missing = [name for name in NEEDED if not (self.root / name).is_file()]
        if missing:
            raise _incomplete(self.root, missing)

    def hand_over_logs(self) -> None:
        """Give logs that belong to root to the services' user; those of any other owner are theirs already."""
        self.logs.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            for path in (self.logs, *self.logs.iterdir()):
                os.chown(path, *self.service_user)

    def open_entrypoints(self) -> None:
        """Let every user read the entrypoints, whatever umask they were copied under: Redis runs as its own user."""
        folder = self.root / "entrypoints"
        for path in (folder, *folder.iterdir()):
            if path.stat().st_mode & 0o005 != 0o005:
                path.chmod(path.stat().st_mode | 0o055)

    @property
    def lock_file(self) -> Path:
        """Locked while a denzel command changes the project, and holds its state meanwhile."""
        return self.root / ".denzel" / "activity"

    @property
    def interruption_file(self) -> Path:
        """Holds the name of the command that changes what runs, while it does: when it is killed, for ever."""
        return self.root / ".denzel" / "interrupted"


def find_project(start: Path) -> Project:
    """The project that `start` is in, or a folder above it; raises ProjectNotFound and ProjectIncomplete."""
    for folder in (start, *start.parents):
        missing = [name for name in MARKERS if not (folder / name).is_file()]
        if not missing:
            return Project(folder)
        if (folder / "app" / "logic").is_dir() and len(missing) < len(MARKERS):
            raise _incomplete(folder, missing)
    raise ProjectNotFound(
        f"{start} is not inside a denzel project.",
        hint="Go to the folder of your project (cd), or make one: denzel startproject NAME",
    )


def _incomplete(folder: Path, missing: Sequence[str]) -> ProjectIncomplete:
    if missing == ["runtime.txt"]:
        return ProjectIncomplete(
            f"{folder} has no runtime.txt: it may be a project of denzel 0.1.5 of 2019.",
            hint="Make a new one (denzel startproject NAME). Copy app/assets, app/logic and requirements.txt into it.",
        )
    return ProjectIncomplete(
        f"{folder} is not a whole project: {', '.join(missing)} is missing.",
        hint=f"Get it from version control (git checkout {missing[0]}), or a new project: denzel startproject NAME",
    )
