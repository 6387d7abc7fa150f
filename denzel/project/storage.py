"""Translation of the system's errors on files and disks to errors that a user can act on."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path

from denzel.errors import StorageFailed


def storage_failure(error: OSError) -> StorageFailed | None:
    """The error for an operation on a file that the system refused; None for an OSError of another kind."""
    # Of a copy, the second one is what it was to write.
    name = error.filename2 or error.filename
    path = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else Path.cwd()
    hints = {
        errno.ENOSPC: f"Make room there (df -h {shlex.quote(str(path.parent))} shows how full it is), and try again.",
        errno.EDQUOT: "Remove files of yours, or ask for a higher quota, and try again.",
        errno.EROFS: "Make it writable (mount shows how it is mounted), or copy the project to a disk that is.",
        errno.EACCES: f"See whose it is: ls -ld {shlex.quote(str(path))}. Run denzel as that user, or make it yours.",
        errno.EPERM: f"See whose it is: ls -ld {shlex.quote(str(path))}. Run denzel as that user, or make it yours.",
        errno.EIO: "The disk may be failing: see dmesg. Copy the project to another one.",
        errno.EEXIST: "A file is where a folder should be: move it away.",
        errno.EISDIR: "A folder is where a file should be: move it away.",
        errno.ENOTDIR: "A file is where a folder should be: move it away.",
    }
    if error.errno not in hints:
        return None
    return StorageFailed(f"{path} cannot be used: {error.strerror}.", hint=hints[error.errno])
