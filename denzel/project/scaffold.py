"""A new project, rendered from templates/project; the one module that uses Jinja."""

from __future__ import annotations

import base64
import re
import secrets
import shutil
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import jinja2

from denzel.errors import NameNotUsable
from denzel.project.folder import Project

_SUFFIX = ".jinja"
_MAX_NAME = 63


def start_project(name: str, parent: Path, *, gpu: bool = False) -> Project:
    """Render a new project called `name` in `parent`, all of it or nothing; raises NameNotUsable."""
    check_name(name)
    target = parent / name
    if target.exists() or target.is_symlink():
        raise NameNotUsable(f"{target} already exists.", hint="Pass another name, or move it away first.")
    try:
        work = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}."))
    except OSError as error:
        raise NameNotUsable(
            f"{parent} cannot be written to: {error.strerror}.", hint="Go to a folder of your own (cd) and try again."
        ) from None
    try:
        _render(work, _values(name, Project(work), gpu=gpu))
        Project(work).hand_over_logs()
        work.chmod(0o755)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Project(target)


def check_name(name: str) -> None:
    """Raise NameNotUsable unless `name` can be a folder, and in lower case a Compose project and a Docker image."""
    hint = "Use letters, digits, _ and -, starting with a letter, for example iris_classifier."
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_-]*", name):
        raise NameNotUsable(f"{name!r} cannot be the name of a project.", hint=hint)
    if len(name) > _MAX_NAME:
        raise NameNotUsable(f"{name!r} is too long: {len(name)} characters.", hint=f"Use {_MAX_NAME} at most.")
    if not re.fullmatch(r"[a-z0-9]+((_|__|-+)[a-z0-9]+)*", name.lower()):
        raise NameNotUsable(
            f"{name!r} cannot be the name of a Docker image.",
            hint="End with a letter or digit, and put one separator between words, for example iris_classifier.",
        )


def _values(name: str, project: Project, *, gpu: bool) -> dict[str, object]:
    uid, gid = project.service_user
    return {
        "name": name,
        "compose_name": name.lower(),
        "gpu": gpu,
        "uid": uid,
        "gid": gid,
        "redis_password": secrets.token_hex(24),
        "callback_secret": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "monitor_password": secrets.token_hex(12),
    }


def _environment() -> jinja2.Environment:
    return jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)


def _render(target: Path, values: dict[str, object]) -> None:
    environment = _environment()
    with as_file(files("denzel") / "templates" / "project") as source:
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source)
            if "__pycache__" in relative.parts:
                continue
            destination = target / relative
            if path.is_dir():
                destination.mkdir()
            elif path.suffix == _SUFFIX:
                text = environment.from_string(path.read_text(encoding="utf-8")).render(values)
                destination = destination.with_suffix("")
                destination.write_text(text, encoding="utf-8")
            else:
                shutil.copyfile(path, destination)
            # Not every installer keeps modes, and the user's umask may forbid what the services must read.
            destination.chmod(0o755 if path.is_dir() or path.suffix == ".sh" else 0o644)
    for secret in (".env", "pipeline.env"):
        (target / secret).chmod(0o600)
