"""Check of the Lua scripts as Redis gets them: composed from their includes, read by luacheck or, without it, luac."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from app.serving.store import scripts

# Redis has Lua 5.1, and these names.
LUACHECK = ["luacheck", "--quiet", "--codes", "--no-color", "--std", "lua51", "--max-line-length", "120"]
GLOBALS = ["--read-globals", "redis", "cjson", "KEYS", "ARGV"]


def names() -> list[str]:
    """Every script by the name under which it is registered; includes are none."""
    paths = scripts.FOLDER.rglob("*.lua")
    found = sorted(str(path.relative_to(scripts.FOLDER).with_suffix("")) for path in paths)
    return [name for name in found if not name.startswith("include/")]


def unused() -> list[str]:
    """Options by which a script need not use all keys and all that it includes; anything else unused is wrong."""
    includes = "".join(path.read_text() for path in (scripts.FOLDER / "include").glob("*.lua"))
    functions = re.findall(r"^local function (\w+)", includes, re.MULTILINE)
    return ["--ignore", "211/[A-Z_]+", *(f"211/{name}" for name in functions), "--"]


def main() -> int:
    """The exit code of the checker; 0 where there is none, unless DENZEL_REQUIRE_TOOLS is set."""
    luac = shutil.which("luac5.1") or shutil.which("luac")
    command = [*LUACHECK, *GLOBALS, *unused()] if shutil.which("luacheck") else [luac, "-p"] if luac else None
    if command is None:
        print("Lua is not checked: neither luacheck (Debian: lua-check) nor luac is installed.")
        return 1 if os.environ.get("DENZEL_REQUIRE_TOOLS") else 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names():
            path = Path(folder, f"{name}.lua")
            path.parent.mkdir(exist_ok=True)
            path.write_text(scripts.compose(name))
        return subprocess.run([*command, *sorted(Path(folder).rglob("*.lua"))], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
