"""The arrows of the house: which room may import which, and what no command imports before it needs it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TOOL = REPOSITORY / "denzel"
APP = TOOL / "templates" / "project" / "app"

# The rooms of the tool from top to bottom: a room imports from those below it only.
FLOORS = [
    {"cli"},
    {"console", "options"},
    {"tables"},
    {"lifecycle", "status", "scaffold", "listener", "ledger", "drill", "bench"},
    {"kills", "load", "receiver", "generator", "gauges", "ends", "readiness", "stored"},
    {"record"},
    {"bottleneck", "http_client", "prepared", "request_file", "target", "trial"},
    {"tally", "measures", "callback_sink"},
    {"backends"},
    {"backends.docker", "backends.local"},
    {"backends.build_output", "backends.compose", "backends.environment", "backends.run"},
    {"backends.base", "backends.processes", "backends.supervisor", "log_file"},
    {"runner", "project", "activity", "signatures"},
    {"settings"},
    {"services", "errors", "callback_server", "charts", "wire", "wording"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# What the backends' door and the cli open when they are asked to, and not before.
HEAVY = ("docker", "http.server", "jinja2", "psutil", "redis", "requests", "supervisor", "urllib3", "xmlrpc")

# Who may use what is not ours.
OWNERS = {
    "click": {"cli", "options", "console"},
    "subprocess": {"runner"},
    "jinja2": {"scaffold"},
    "docker": {"backends.docker"},
    "psutil": {"backends.processes", "gauges"},
    "redis": {"backends.local"},
    "supervisor": {"backends.supervisor"},
}


def rooms() -> dict[str, Path]:
    paths = [*TOOL.glob("*.py"), *TOOL.glob("backends/*.py")]
    named = {".".join(path.relative_to(TOOL).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in named.items() if name != "__init__"}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or within a function, by its full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {f"{node.module}.{name.name}" for name in node.names} | {node.module}
    return found


def imported_rooms(path: Path) -> set[str]:
    return {name.removeprefix("denzel.") for name in imported(path)} & rooms().keys()


def serving_code() -> list[Path]:
    return sorted(APP.rglob("*.py"))


def test_every_room_has_its_floor() -> None:
    assert set(rooms()) == set(FLOOR)


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_arrows_point_down(room: str) -> None:
    upwards = {other for other in imported_rooms(rooms()[room]) if FLOOR[other] <= FLOOR[room]}
    assert upwards == set()


@pytest.mark.parametrize("module", OWNERS)
def test_what_is_not_ours_has_its_owners(module: str) -> None:
    users = {room for room, path in rooms().items() if any(_within(name, module) for name in imported(path))}
    assert users == OWNERS[module]


def test_the_tool_never_imports_the_serving_code() -> None:
    assert [room for room, path in rooms().items() if any(_within(name, "app") for name in imported(path))] == []


@pytest.mark.parametrize("path", serving_code(), ids=lambda path: str(path.relative_to(APP)))
def test_the_serving_code_never_imports_the_tool(path: Path) -> None:
    assert not any(_within(name, "denzel") for name in imported(path))


def test_templates_are_data() -> None:
    assert not (TOOL / "templates" / "__init__.py").exists()


def test_only_templates_with_a_value_to_substitute_are_templates() -> None:
    templates = (TOOL / "templates").rglob("*.jinja")
    assert [path for path in templates if "{{" not in path.read_text() and "{%" not in path.read_text()] == []


@pytest.mark.parametrize(
    "code",
    ["import denzel.cli", "import sys; sys.argv = ['denzel', '--help']; from denzel.cli import main; main()"],
    ids=["import", "help"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    report = f"import atexit, sys; atexit.register(lambda: print([name for name in {HEAVY} if name in sys.modules]))"
    command = [sys.executable, "-c", f"{report}; {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
