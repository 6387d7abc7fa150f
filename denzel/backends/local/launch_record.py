"""Record of a launch: the ports, paths and settings that its processes keep, and the environments made of them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from denzel.backends.local.processes import MARK
from denzel.project.folder import Project
from denzel.services import FORMER_SETTINGS, SETTINGS, Service


def _passed(service: Service) -> tuple[str, ...]:
    return (*SETTINGS[service], *FORMER_SETTINGS.get(service, ()))


#: Settings that take effect only when the services are started.
FIXED_SETTINGS = (
    *("COMPOSE_PROJECT_NAME", "API_HOST", "API_PORT", "MONITOR_PORT"),
    *("REDIS_PASSWORD", "REDIS_SERVER", "OS_REQUIREMENTS_UPDATED"),
    *(key for service in Service for key in _passed(service)),
)

#: Shell script that sets the variables of pipeline.env, relative to the project: any value passes through it whole.
USERS_VARIABLES = ".denzel/pipeline.sh"

#: Folders of Redis's data, and of what is downloaded, relative to the project.
DATA = ".denzel/redis"
CACHE = ".denzel/cache"

#: Variables by which libraries find the models that they have downloaded, and their folders in the cache; as in the
#: Dockerfile. A user may have set them to a cache of their own.
CACHES = {"XDG_CACHE_HOME": "", "HF_HOME": "huggingface", "TORCH_HOME": "torch", "KERAS_HOME": "keras"}


@dataclass(frozen=True, kw_only=True)
class LaunchRecord:
    """One launch: the project's folder, its Python environment, the Redis server's program and port, and the settings
    that the services were started with; and the variables of the user's own code, which two of them get.
    """

    folder: str
    venv: str
    server: str
    redis_port: int
    settings: Mapping[str, str]
    pipeline: Mapping[str, str] = field(default_factory=dict)

    def users_variables(self, service: Service) -> Mapping[str, str]:
        """The variables of pipeline.env in a service, which those of denzel's own override."""
        return self.pipeline if service in (Service.API, Service.DENZEL) else {}

    def command(self, service: Service) -> str:
        """The command of a service, with the user's variables: none of them is one of denzel's own."""
        start = f"bash entrypoints/{service.value}.sh"
        return f"bash -c '. {USERS_VARIABLES}; exec {start}'" if self.users_variables(service) else start

    def variables(self, service: Service) -> dict[str, str]:
        """The environment variables of a service, as in docker-compose.yml, with the addresses of this machine."""
        settings = self.settings
        return {
            "PROJECT_NAME": settings["COMPOSE_PROJECT_NAME"],
            "REDIS_URL": f"redis://:{settings['REDIS_PASSWORD']}@127.0.0.1:{self.redis_port}/0",
            "REDISCLI_AUTH": settings["REDIS_PASSWORD"],
            "REDIS_BIND": f"127.0.0.1:{self.redis_port}",
            "REDIS_DATA": DATA,
            "API_BIND": f"{settings['API_HOST']}:{settings['API_PORT']}",
            "MONITOR_BIND": f"{settings['MONITOR_HOST']}:{settings['MONITOR_PORT']}",
            # Callbacks to this machine are what this backend is for, but not to the services themselves.
            "CALLBACK_LOOPBACK": "open",
            "OWN_SERVICES": ",".join(
                f"localhost:{port}" for port in (self.redis_port, settings["API_PORT"], settings["MONITOR_PORT"])
            ),
            # An earlier release may have launched the project, and not have known all of them.
            **{key: settings[key] for key in _passed(service) if key in settings},
        }

    def environment(self, temp_folder: Path) -> dict[str, str]:
        """The variables that every process of the project inherits; `temp_folder` is for their temporary files."""
        venv = Path(self.venv)
        cache = Path(self.folder) / CACHE
        caches = {name: os.environ.get(name) or str(cache / folder) for name, folder in CACHES.items()}
        return {
            **caches,
            MARK: self.folder,
            "VIRTUAL_ENV": str(venv),
            "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(temp_folder),
            # The package setproctitle, if installed, would overwrite the mark.
            "SPT_NOENV": "1",
            "REDIS_SERVER_PROGRAM": self.server,
        }


class LaunchRecordFile:
    """The file with the record of the last launch. While it exists, the project is launched."""

    def __init__(self, project: Project) -> None:
        self._root = project.root
        self._path = project.root / ".denzel" / "run.json"

    def read(self) -> LaunchRecord | None:
        """The record of the last launch; None without one, or when it is of the folder that this one is a copy of."""
        try:
            record = LaunchRecord(**json.loads(self._path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return record if record.folder == os.path.realpath(self._root) else None

    def write(self, record: LaunchRecord) -> None:
        """Write the record, and the user's variables for the services to read."""
        write_secret(self._root / USERS_VARIABLES, shell_script(record.pipeline))
        write_secret(self._path, json.dumps(asdict(record)))

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def shell_script(variables: Mapping[str, str]) -> str:
    """A script for a shell to read that sets and exports these variables."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
