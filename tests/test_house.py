"""Walls of the house: imports between packages, sizes of files and functions, and first lines."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from imports import COMMAND, SERVING, Half, imported
from support.paths import PROJECT, REPOSITORY

HALVES = {"command": COMMAND, "serving": SERVING}
FILES = [path for half in HALVES.values() for path in half.modules().values()]

# A folder with more modules is two, and so is a file with more lines; cli.py is every command on one page.
MAX_MODULES = 15
MAX_LINES = 300

# Words that ask where a first line should name.
ASKING = re.compile(r"(what|how|whether|who|whom|whose|which|why|when|where)\b", re.IGNORECASE)

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

# What the backends' door and the cli open when they are asked to, and not before.
HEAVY = ("asyncio", "docker", "http.server", "jinja2", "psutil", "redis", "requests", "supervisor", "urllib3", "xmlrpc")

# Who may use what is not ours.
OWNERS = {
    "click": {"cli", "terminal.options", "terminal.console", "terminal.status_lines", "terminal.watching"},
    "subprocess": {"runner"},
    "jinja2": {"project.scaffold"},
    "docker": {"backends.docker.engine"},
    "psutil": {"backends.local.processes", "loadtest.bench.sampler"},
    "redis": {"backends.local.backend"},
    "supervisor": {"backends.local.supervisor"},
}

# What is private in a library, or not documented, and the one module of the serving code that uses it.
PRIVATE = {
    "api.bodies.form": {"_headers"},
    "api.http.protocol": {"_start_asgi_task", "_unset_keepalive_if_required"},
    "queue.inline": {"_set_running_loop"},
    "worker.node": {"_get_info", "celery.worker.state"},
}

# Private by its looks alone: one underscore, and neither of os nor of a NamedTuple.
UNDERSCORED = re.compile(r"_(?!_|exit$|replace$)")


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def shown(path: Path) -> str:
    return str(path.relative_to(REPOSITORY / "denzel"))


each_half = pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
each_file = pytest.mark.parametrize("path", FILES, ids=shown)


# ------------------------------------------------------------------ walls


@each_half
def test_every_module_is_in_a_package(half: Half) -> None:
    assert [module for module in half.modules() if module and half.package_of(module) is None] == []


@each_half
def test_arrows_point_down(half: Half) -> None:
    """From a package to those of lower floors alone, so there is no circle."""
    floor = {package: number for number, packages in enumerate(half.floors) for package in packages}
    upwards = {arrow: modules for arrow, modules in half.arrows().items() if floor[arrow[1]] <= floor[arrow[0]]}
    assert upwards == {}


@pytest.mark.parametrize("module", OWNERS)
def test_what_is_not_ours_has_its_owners(module: str) -> None:
    users = {room for room, path in COMMAND.modules().items() if any(within(name, module) for name in imported(path))}
    assert users == OWNERS[module]


def private_names(module: str, path: Path) -> set[str]:
    """The names of PRIVATE's packages that a module uses, and those with an underscore of what is not its own."""
    listed = [names for owner, names in PRIVATE.items() if within(module, owner.partition(".")[0])]
    nodes = list(ast.walk(ast.parse(path.read_text())))
    used = imported(path) | {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    foreign = set()
    for node in nodes:
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
            if UNDERSCORED.match(node.attr) and ast.unparse(node.value) not in ("self", "cls", "super()"):
                foreign.add(node.attr)
    return used & set().union(*listed) | foreign


def test_private_names_of_libraries_have_one_user_each() -> None:
    users = {module: names for module, path in SERVING.modules().items() if (names := private_names(module, path))}
    assert users == PRIVATE


@each_half
def test_the_halves_do_not_import_each_other(half: Half) -> None:
    other = SERVING.prefix.partition(".")[0] if half is COMMAND else COMMAND.prefix
    assert [room for room, path in half.modules().items() if any(within(name, other) for name in imported(path))] == []


def test_the_app_holds_nothing_of_denzels_but_the_door() -> None:
    """All that a user sees there is theirs, apart from one folder and Celery's door to it."""
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT / "app", capture_output=True, text=True, check=True)
    names = {path.partition("/")[0] for path in tracked.stdout.splitlines()}
    assert names == {"__init__.py", "assets", "logic", "serving", "tasks.py"}
    door = ast.parse((PROJECT / "app" / "tasks.py").read_text())
    assert [type(node).__name__ for node in door.body] == ["Expr", "ImportFrom", "Assign"]


def test_templates_are_data() -> None:
    assert not (REPOSITORY / "denzel" / "templates" / "__init__.py").exists()


def test_only_templates_with_a_value_to_substitute_are_templates() -> None:
    templates = (REPOSITORY / "denzel" / "templates").rglob("*.jinja")
    assert [path for path in templates if "{{" not in path.read_text() and "{%" not in path.read_text()] == []


# ------------------------------------------------------------------ sizes


def test_no_folder_is_a_crowd() -> None:
    modules = Counter(path.parent for path in FILES if path.name != "__init__.py")
    assert {shown(folder): number for folder, number in modules.items() if number > MAX_MODULES} == {}


def test_no_file_is_two_ideas() -> None:
    scripts = sorted(SERVING.root.rglob("*.lua"))
    lengths = {shown(path): len(path.read_text().splitlines()) for path in [*FILES, *scripts] if path.name != "cli.py"}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


@each_half
def test_files_and_functions_are_small(half: Half) -> None:
    """As in the projects that this house is measured by: files of 40 to 140 lines, nine functions in ten within 20."""
    files, functions = [], []
    for path in half.modules().values():
        text = path.read_text()
        nodes = ast.walk(ast.parse(text))
        functions += [n.end_lineno - n.lineno + 1 for n in nodes if isinstance(n, ast.FunctionDef) and n.end_lineno]
        if path.name != "__init__.py":
            files.append(len(text.splitlines()))
    assert 40 <= statistics.median(files) <= 140
    assert statistics.quantiles(functions, n=10)[-1] <= 20


# ------------------------------------------------------------------ words


def asking(tree: ast.AST, kinds: tuple[type[ast.AST], ...]) -> list[str]:
    """The first lines of docstrings that ask."""
    documented = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    lines = [text.partition("\n")[0] for node in documented if (text := ast.get_docstring(node))]  # type: ignore[arg-type]
    return [line for line in lines if ASKING.match(line)]


@each_file
def test_first_lines_name_and_do_not_ask(path: Path) -> None:
    """A module's is a noun phrase that names its mechanism; a function's or a class' a noun phrase or an imperative."""
    tree = ast.parse(path.read_text())
    assert asking(tree, DOCUMENTED) == []
    assert path.name == "__init__.py" or ast.get_docstring(tree), "a module names in one line what it is"


def test_first_lines_of_tests_name_too() -> None:
    """A test's name is its sentence, so of test modules the first line counts alone."""
    trees = {path: ast.parse(path.read_text()) for path in (REPOSITORY / "tests").rglob("*.py")}
    helpers = {path for path in trees if path.parent.name in ("doubles", "support")}
    found = {path: asking(tree, DOCUMENTED if path in helpers else (ast.Module,)) for path, tree in trees.items()}
    assert {path: lines for path, lines in found.items() if lines} == {}
    assert [path for path, tree in trees.items() if not ast.get_docstring(tree)] == []


@each_file
def test_cannot_is_one_word(path: Path) -> None:
    assert [line for line in path.read_text().splitlines() if re.search(r"\bcan not\b", line)] == []


# ------------------------------------------------------------------ start


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
