"""Import graph of denzel's two halves by package, for the picture in architecture.md and for the tests."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Half:
    """One of the two halves: where its code is, the prefix of its modules' names, and its packages from top to bottom.

    A package is named by a folder or, where a folder has modules of its own at the top, by the module. It imports from
    the floors below it alone.
    """

    root: Path
    prefix: str
    floors: tuple[tuple[str, ...], ...]

    @property
    def packages(self) -> tuple[str, ...]:
        return tuple(package for floor in self.floors for package in floor)

    def modules(self) -> dict[str, Path]:
        """Each module's path by its name within the half; a package's `__init__` goes by the package's name."""
        found = {}
        for path in sorted(self.root.rglob("*.py")):
            relative = path.relative_to(self.root)
            if relative.parts[0] != "templates":
                found[".".join(relative.with_suffix("").parts).removesuffix("__init__").strip(".")] = path
        return found

    def package_of(self, module: str) -> str | None:
        """The package that holds a module: the longest name of `floors` that the module's begins with."""
        fitting = [package for package in self.packages if f"{module}.".startswith(f"{package}.")]
        return max(fitting, key=len, default=None)

    def arrows(self) -> dict[tuple[str, str], list[str]]:
        """The imports between packages, each with the modules that have it."""
        found: dict[tuple[str, str], list[str]] = {}
        modules = self.modules()
        for module, path in modules.items():
            package = self.package_of(module)
            for name in sorted(imported(path)):
                target = name.removeprefix(f"{self.prefix}.")
                other = self.package_of(target) if name != target and target in modules else None
                if package and other and package != other:
                    found.setdefault((package, other), []).append(module)
        return found


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or within a function, by its full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names} | {node.module}
    return found


COMMAND = Half(
    REPOSITORY / "denzel",
    "denzel",
    (
        ("cli",),
        ("terminal",),
        ("loadtest.drill", "loadtest.bench"),
        ("loadtest",),
        ("lifecycle", "admin", "webhooks"),
        ("backends",),
        ("backends.docker", "backends.local"),
        ("backends.base",),
        ("project", "watch"),
        ("runner",),
        ("services", "errors", "text"),
    ),
)
SERVING = Half(
    REPOSITORY / "denzel" / "templates" / "project" / "app" / "serving",
    "app.serving",
    (
        ("api.http", "worker", "supervisor"),
        ("api",),
        ("queue", "admin"),
        ("worker.batching", "monitor"),
        ("api.bodies", "worker.model", "callbacks"),
        ("store", "pipeline", "running_task"),
        ("logs",),
        ("verify_origin", "callback_uri", "errors", "contract"),
        ("json_values",),
        ("settings", "heartbeat", "cores", "backoff", "memory", "json_forms", "text"),
    ),
)
