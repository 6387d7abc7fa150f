"""Files of variables, .env and pipeline.env, as text: read as UTF-8, and replaced atomically."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from denzel.errors import NotPermitted, SettingInvalid


def read_text(path: Path, *, remedy: str) -> str:
    """The text of the file; raises SettingInvalid for another encoding, and with this hint when it cannot be read."""
    try:
        # As in Compose, only a line feed ends a line.
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingInvalid(f"{path} cannot be read: {error}.", hint="Save it as UTF-8.") from None
    except OSError as error:
        raise SettingInvalid(f"{path} cannot be read: {error.strerror}.", hint=remedy) from None


def replace_text(path: Path, text: str) -> None:
    """Replace the file's text atomically, readable by its owner alone; raises NotPermitted."""
    # In a folder on the same disk, which neither the image nor version control includes.
    folder = path.parent / ".denzel"
    try:
        folder.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
    except PermissionError:
        raise NotPermitted(
            f"{path} cannot be changed: the project belongs to another user.",
            hint=f"Run denzel as that user, or make the project yours: sudo chown -R $USER {path.parent}",
        ) from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        if path.exists():
            status = path.stat()
            if status.st_uid != os.geteuid():
                os.chown(temporary, status.st_uid, status.st_gid)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
