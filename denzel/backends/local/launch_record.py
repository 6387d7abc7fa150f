"""What one launch settled for all who come after it, and what its processes are given of that."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from denzel.backends.local.processes import MARK
from denzel.project.folder import Project
from denzel.services import SETTINGS, Service

#: The settings that a running service cannot be given anew.
SETTLED = (
    *("COMPOSE_PROJECT_NAME", "API_HOST", "API_PORT", "MONITOR_PORT"),
    *("REDIS_PASSWORD", "REDIS_SERVER", "OS_REQUIREMENTS_UPDATED"),
    *(key for service in Service for key in SETTINGS[service]),
)

#: Where Redis keeps its data, from the project's folder on.
DATA = ".denzel/redis"


@dataclass(frozen=True, kw_only=True)
class LaunchRecord:
    """What one launch settled: the folder it was for, the environment it runs from, the server and its port, and the
    settings that each service was given.
    """

    folder: str
    venv: str
    server: str
    redis_port: int
    settings: Mapping[str, str]

    def variables(self, service: Service) -> dict[str, str]:
        """The environment of a service, as docker-compose.yml gives it, with the addresses it has here."""
        settled = self.settings
        return {
            "PROJECT_NAME": settled["COMPOSE_PROJECT_NAME"],
            "REDIS_URL": f"redis://:{settled['REDIS_PASSWORD']}@127.0.0.1:{self.redis_port}/0",
            "REDISCLI_AUTH": settled["REDIS_PASSWORD"],
            "REDIS_BIND": f"127.0.0.1:{self.redis_port}",
            "REDIS_DATA": DATA,
            "API_BIND": f"{settled['API_HOST']}:{settled['API_PORT']}",
            "MONITOR_BIND": f"{settled['MONITOR_HOST']}:{settled['MONITOR_PORT']}",
            # A receiver on this machine is what this backend is for; the services themselves are none.
            "CALLBACK_LOOPBACK": "open",
            "OWN_SERVICES": ",".join(
                f"localhost:{port}" for port in (self.redis_port, settled["API_PORT"], settled["MONITOR_PORT"])
            ),
            **{key: settled[key] for key in SETTINGS[service]},
        }

    def environment(self, temporary: Path) -> dict[str, str]:
        """What every process of the project inherits; `temporary` is a folder for what they leave lying about."""
        venv = Path(self.venv)
        return {
            MARK: self.folder,
            "VIRTUAL_ENV": str(venv),
            "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(temporary),
            # Where the package setproctitle is installed, it would write over the mark.
            "SPT_NOENV": "1",
            "REDIS_SERVER_PROGRAM": self.server,
        }


class LaunchRecordFile:
    """The note of the last launch in a project: it makes the project launched."""

    def __init__(self, project: Project) -> None:
        self._root = project.root
        self._path = project.root / ".denzel" / "run.json"

    def read(self) -> LaunchRecord | None:
        """What the last launch settled, unless that was in a folder of which this one is a copy."""
        try:
            run = LaunchRecord(**json.loads(self._path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return run if run.folder == os.path.realpath(self._root) else None

    def write(self, run: LaunchRecord) -> None:
        write_secret(self._path, json.dumps(asdict(run)))

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def write_secret(path: Path, text: str) -> None:
    """Write a file that its owner alone may read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
