"""verify_origin.py: the module that verify_input is imported from, for any code that binds the name, and the api."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.serving.verify_origin import origin, source_of
from denzel.project.scaffold import start_project


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from app.logic.verify import verify_input", ("app.logic.verify", "verify_input")),
        ("from app.logic.checks import check as verify_input", ("app.logic.checks", "check")),
        ("from .verify import load, verify_input", (".verify", "verify_input")),
        ("from . import verify_input", (".", "verify_input")),
        ("import pandas\nfrom .verify import verify_input\nprint(verify_input)", (".verify", "verify_input")),
    ],
)
def test_an_import_at_the_top_is_the_origin(source: str, expected: tuple[str, str]) -> None:
    assert origin(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def verify_input(json_data): ...",
        "import verify_input",
        "from .verify import *",
        "from .verify import verify_input as other",
        "from .verify import verify_input\nverify_input = traced(verify_input)",
        "from .verify import verify_input\ndef verify_input(json_data): ...",
        "from .verify import verify_input\nfrom .other import *",
        "from .verify import verify_input\ndef change():\n    global verify_input\n    verify_input = None",
        "from .verify import verify_input\nfor verify_input in (): ...",
        "try:\n    from .verify import verify_input\nexcept ImportError: ...",
        "def function():\n    from .verify import verify_input",
        "from .verify import verify_input\n(",
        "\0",
    ],
)
def test_whatever_else_may_bind_the_name_is_none(source: str) -> None:
    assert origin(source) is None


def test_the_code_of_a_module_is_read_and_not_run() -> None:
    assert "def verify_input(json_data):" in source_of("app.logic.pipeline")
    assert source_of("app.logic.no_such_module") == ""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose pipeline.py imports a module `heavy` at its top, and verify_input from one of its own."""
    root = start_project("iris", tmp_path).root
    logic = root / "app" / "logic"
    (logic / "heavy.py").write_text("")
    (logic / "verify.py").write_text("def verify_input(json_data): return json_data['x']\n")
    imports = "import app.logic.heavy\nfrom app.logic.verify import verify_input\n"
    functions = "def load_model(): ...\ndef process(model, json_data): ...\ndef predict(model, data): ...\n"
    (logic / "pipeline.py").write_text(imports + functions)
    return root


def imported_by_the_api(project: Path, names: str) -> list[str]:
    found = f"[name for name in {names.split()} if name in sys.modules]"
    # What is printed is logged from that import on.
    code = f"import sys, app.serving.api.asgi; print(*{found}, file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_api_imports_the_origin_alone(project: Path) -> None:
    names = "app.logic.heavy app.logic.pipeline app.logic.verify"
    assert imported_by_the_api(project, names) == ["app.logic.verify"]


def test_the_api_imports_a_pipeline_that_has_a_function_of_its_own(project: Path) -> None:
    with (project / "app/logic/pipeline.py").open("a") as pipeline:
        pipeline.write("def verify_input(json_data): return json_data\n")
    names = "app.logic.heavy app.logic.pipeline"
    assert imported_by_the_api(project, names) == ["app.logic.heavy", "app.logic.pipeline"]


def test_a_function_of_another_module_is_checked_as_well(project: Path) -> None:
    (project / "app/logic/verify.py").write_text("def verify_input(): ...\n")
    code = "import sys, app.serving.api.asgi as api; print(api.fault, file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert "verify_input takes ()" in done.stdout
