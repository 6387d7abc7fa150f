"""pipeline.py: the import of the user's module, which stands in for the `__main__` of a training script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import PROJECT

TRAINING = """
import {library} as library
class AddRatio:
    def transform(self, value):
        return scaled(value)
def scaled(value):
    return value * 2
class Outer:
    class Inner:
        value = 5
if __name__ == "__main__":
    with open("app/assets/model.pkl", "wb") as file:
        library.dump({what}, file)
"""

FUNCTIONS = """
def verify_input(json_data): return json_data
def process(model, json_data): return json_data
def predict(model, data): return {}
"""

CLASSES = """
class AddRatio:
    def transform(self, value):
        return scaled(value)
def scaled(value):
    return value * 3
class Outer:
    class Inner:
        value = 7
"""

LOADING = """
import {library} as library
def load_model():
    with open("app/assets/model.pkl", "rb") as file:
        return library.load(file)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app" / "logic").mkdir(parents=True)
    (tmp_path / "app" / "assets").mkdir()
    (tmp_path / "app" / "serving").symlink_to(PROJECT / "app" / "serving")
    return tmp_path


def run(project: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def shown(project: Path, pipeline: str, expression: str) -> str:
    """The output of an expression over the `pipeline` and its `model`, in a program of its own."""
    (project / "app" / "logic" / "pipeline.py").write_text(pipeline)
    # A program that is run as the worker is, so that `__main__` is another module.
    (project / "program.py").write_text(
        "from app.serving.pipeline import import_pipeline\n"
        f"pipeline = import_pipeline()\nmodel = pipeline.load_model()\nprint({expression})\n"
    )
    return run(project, "-m", "program")


def trained(project: Path, what: str, library: str = "pickle") -> None:
    (project / "train.py").write_text(TRAINING.format(library=library, what=what))
    run(project, "train.py")
    (project / "train.py").unlink()


@pytest.mark.parametrize("library", ["pickle", "joblib", "cloudpickle"])
def test_a_class_of_the_training_script_is_the_pipelines(project: Path, library: str) -> None:
    trained(project, "AddRatio()", library)
    pipeline = FUNCTIONS + CLASSES + LOADING.format(library=library)
    # cloudpickle stores the class itself, and so what it was in the script.
    assert shown(project, pipeline, "model.transform(1)") == ("2" if library == "cloudpickle" else "3")


@pytest.mark.parametrize(
    ("what", "expression", "value"), [("scaled", "model(1)", "3"), ("Outer.Inner()", "model.value", "7")]
)
def test_functions_and_inner_classes_are_found_too(project: Path, what: str, expression: str, value: str) -> None:
    trained(project, what)
    assert shown(project, FUNCTIONS + CLASSES + LOADING.format(library="pickle"), expression) == value


def test_a_class_that_the_pipeline_imports_is_found(project: Path) -> None:
    trained(project, "AddRatio()")
    (project / "app" / "logic" / "features.py").write_text(CLASSES)
    pipeline = f"{FUNCTIONS}\nfrom app.logic.features import AddRatio\n{LOADING.format(library='pickle')}"
    assert shown(project, pipeline, "model.transform(1)") == "3"


def test_a_model_that_is_loaded_at_the_top_is_found_too(project: Path) -> None:
    trained(project, "AddRatio()")
    pipeline = f"{FUNCTIONS}{CLASSES}{LOADING.format(library='pickle')}\nmodel = load_model()\n"
    assert shown(project, pipeline, "pipeline.model.transform(1)") == "3"


def test_names_of_the_program_itself_are_left_as_they_are(project: Path) -> None:
    pipeline = f"{FUNCTIONS}\npipeline = 5\ndef load_model(): return 1\n"
    assert shown(project, pipeline, "pipeline.__name__") == "app.logic.pipeline"


def test_a_pipeline_that_breaks_the_contract_is_read_again(project: Path) -> None:
    path = project / "app" / "logic" / "pipeline.py"
    (project / "program.py").write_text(
        "from pathlib import Path\nfrom app.serving.pipeline import import_pipeline\n"
        "try:\n    import_pipeline()\nexcept Exception as error:\n    print(type(error).__name__)\n"
        f"with Path({str(path)!r}).open('a') as file:\n    file.write('def load_model(): return 1\\n# and more\\n')\n"
        "print(import_pipeline().load_model())\n"
    )
    path.write_text(FUNCTIONS)
    assert run(project, "program.py") == "ContractError\n1"
