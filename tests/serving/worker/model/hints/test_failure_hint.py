"""failure_hint.py: for each way in which a model cannot be loaded, the place of its cause, judged by the traceback."""

from __future__ import annotations

import gzip
import importlib.util
import os
import pickle
import random
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.linear_model import LogisticRegression

from app.serving.worker.model.hints.failure_hint import failure_hint

OPENED = "    with open('app/assets/model.pkl', 'rb') as file:\n        "
PICKLE = f"import pickle\ndef load_model():\n{OPENED}return pickle.load(file)\n"
UNPICKLER = f"import pickle\ndef load_model():\n{OPENED}unpickler = pickle.Unpickler(file)\n        unpickler.load()\n"
FROM = f"from pickle import load\ndef load_model():\n{OPENED}return load(file)\n"
JOBLIB = "import joblib\ndef load_model():\n    return joblib.load('./app/assets/model.pkl')\n"
IN_MEMORY = (
    "import pickle\nfrom pathlib import Path\nMODEL = Path('app/assets/model.pkl')\n"
    "def load_model():\n    return pickle.loads(MODEL.read_bytes())\n"
)
READERS = [PICKLE, JOBLIB, IN_MEMORY, UNPICKLER, FROM]

READ = pytest.mark.parametrize("reader", READERS, ids=["load", "joblib", "loads", "Unpickler", "from"])

Hint = Callable[[str], str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project that is the current folder."""
    for folder in ("app/logic", "app/assets"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("hinted_"):
            del sys.modules[name]


@pytest.fixture
def model(project: Path) -> Path:
    return project / "app" / "assets" / "model.pkl"


@pytest.fixture
def hint(project: Path) -> Hint:
    """The hint for a pipeline.py of this text."""

    def load(text: str) -> str:
        path = project / "app" / "logic" / "pipeline.py"
        path.write_text(text)
        name = f"hinted_{random.randrange(10**9)}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
            module.load_model()
        except Exception as error:  # noqa: BLE001
            return failure_hint(error)
        pytest.fail("it was loaded")

    return load


def pickled(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A pickle of an object whose class is at that place, which is gone again."""
    made: type[Any] = type(name, (), {"__module__": module})
    with monkeypatch.context() as patch:
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            place = ".".join(parts[:count])
            if place not in sys.modules:
                patch.setitem(sys.modules, place, types.ModuleType(place))
        patch.setattr(sys.modules[module], name, made, raising=False)
        return pickle.dumps(made())


# ------------------------------------------------- what the file asks for


@READ
def test_a_class_of_the_training_script_is_to_be_defined_in_the_pipeline(
    reader: str, hint: Hint, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.write_bytes(pickled("__main__", "AddRatio", monkeypatch))
    assert hint(reader).startswith(
        "Your training script defined AddRatio. Define it in app/logic/pipeline.py too, or import it there"
    )


@READ
def test_a_class_within_a_class_is_imported_with_the_outer_one(
    reader: str, hint: Hint, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.write_bytes(b"\x80\x04\x8c\x08__main__\x8c\x0bOuter.Inner\x93.")
    text = hint(reader)
    assert text.startswith("Your training script defined Outer. ")
    assert "import Outer. Then" in text


@READ
@pytest.mark.parametrize("module", ["train", "unknown.part", "features.extra"])
def test_a_module_that_the_file_asks_for_is_not_to_be_added(
    reader: str, module: str, hint: Hint, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.write_bytes(pickled(module, "Net", monkeypatch))
    text = hint(reader)
    assert text.startswith(f"The file asks for the module {module.split('.')[0]}")
    assert f"put {module.split('.')[0]}.py into the project folder" in text
    assert "Do not install a package of that name on a guess" in text
    assert "Add" not in text


@READ
def test_a_part_of_scikit_learn_is_a_matter_of_its_version(
    reader: str, hint: Hint, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickled("_loss", "CyHalfBinomialLoss", monkeypatch)
    model.write_bytes(content + pickle.dumps({"_sklearn_version": "1.5.2"}))
    text = hint(reader)
    here = sklearn.__version__
    assert text.startswith(f"The file was saved with scikit-learn 1.5.2, and {here} is installed.")
    assert "Write scikit-learn==1.5.2 into requirements.txt, then: denzel updatereqs" in text
    assert f"Or save the model again with scikit-learn {here}, then: denzel restart" in text


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("pack", [bytes, zlib.compress, gzip.compress], ids=["plain", "zlib", "gzip"])
def test_a_class_that_the_installed_scikit_learn_lacks_names_both_versions(
    protocol: int, pack: Callable[[bytes], bytes], hint: Hint, model: Path
) -> None:
    content = pickle.dumps(LogisticRegression().fit([[0], [1]], [0, 1]), protocol=protocol)
    version = sklearn.__version__.encode()
    assert version in content
    # The same length, as pickles count bytes.
    content = content.replace(version, b"0.9.9"[: len(version)]).replace(b"LogisticRegression", b"LogisticRegressiom")
    model.write_bytes(pack(content))
    text = hint(JOBLIB)
    assert text.startswith(f"The file was saved with scikit-learn 0.9.9, and {sklearn.__version__} is installed.")


def test_a_library_that_is_not_installed_is_named_with_the_version_that_is_needed(
    hint: Hint, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.write_bytes(pickled("xgboost.sklearn", "XGBClassifier", monkeypatch))
    assert hint(PICKLE) == (
        "The file was saved with xgboost, which is not installed here. Write xgboost==<the version that saved it> into"
        " requirements.txt. Then: denzel updatereqs"
    )


def test_an_array_of_another_numpy_is_a_matter_of_numpy(
    hint: Hint, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickle.dumps(np.arange(3), protocol=2)
    model.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy._kore.multiarray"))
    text = hint(PICKLE)
    assert f"NumPy {np.__version__}" in text
    assert "Add" not in text


def test_a_dependency_of_what_the_file_asks_for_is_to_be_added(
    hint: Hint, project: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.write_bytes(pickled("hinted_library", "Net", monkeypatch))
    (project / "hinted_library.py").write_text("import yaml2bert\nclass Net: pass\n")
    monkeypatch.syspath_prepend(str(project))
    assert hint(PICKLE) == "Add yaml2bert to requirements.txt. Then: denzel updatereqs"


# --------------------------------------------------------- the file itself


@READ
def test_a_pointer_of_git_lfs_is_named(reader: str, hint: Hint, model: Path) -> None:
    model.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert hint(reader) == (
        "app/assets/model.pkl is a pointer of Git LFS, and not the model. Fetch it: git lfs pull. Then: denzel restart"
    )


@READ
def test_an_empty_file_is_named(reader: str, hint: Hint, model: Path) -> None:
    model.write_bytes(b"")
    assert hint(reader) == "app/assets/model.pkl is empty. Copy the model there again. Then: denzel restart"


@READ
def test_half_a_file_is_named_with_its_size(reader: str, hint: Hint, model: Path) -> None:
    model.write_bytes(pickle.dumps({"weights": "x" * 5000})[:3000])
    assert hint(reader) == (
        "app/assets/model.pkl ends too soon, after 3,000 bytes: copy it again, and compare its size."
        " Then: denzel restart"
    )


def test_half_a_compressed_file_is_named(hint: Hint, model: Path) -> None:
    joblib.dump({"weights": os.urandom(5000)}, model, compress=3)
    model.write_bytes(model.read_bytes()[:2500])
    assert "ends too soon, after 2,500 bytes" in hint(JOBLIB)


def test_a_web_page_in_place_of_the_model_is_named(hint: Hint, model: Path) -> None:
    model.write_text("<!DOCTYPE html>\n<html><body>Sign in</body></html>")
    assert "app/assets/model.pkl is a web page, and not the model" in hint(PICKLE)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04" + bytes(50), "is a zip archive, as torch.save"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "is an HDF5 file"),
        (b'{"learner": {}}', "is JSON text"),
        (gzip.compress(b"x" * 99), "is compressed by gzip"),
        (zlib.compress(b"x" * 99), "load it with joblib.load"),
        (b"weights: 1\n", "is no pickle"),
    ],
    ids=["zip", "hdf5", "json", "gzip", "zlib", "text"],
)
def test_a_file_of_another_kind_is_named(content: bytes, what: str, hint: Hint, model: Path) -> None:
    model.write_bytes(content)
    assert what in hint(PICKLE)
    assert "app/assets/model.pkl" in hint(PICKLE)


def test_a_protocol_of_a_newer_python_is_named(hint: Hint, model: Path) -> None:
    model.write_bytes(b"\x80\x09" + pickle.dumps(1)[2:])
    assert hint(PICKLE).startswith(
        f"The file was written with pickle's protocol 9; Python {sys.version_info.major}.{sys.version_info.minor} reads"
        f" up to {pickle.HIGHEST_PROTOCOL}."
    )


# ---------------------------------------------------------- missing files


def opening(path: str) -> str:
    return f"def load_model():\n    return open({path!r}, 'rb')\n"


def test_a_missing_file_is_named_with_where_it_should_be(hint: Hint, project: Path) -> None:
    assert hint(opening("./app/assets/model.pkl")) == (
        "Put model.pkl into app/assets of the project (paths are relative to the project folder,"
        f" {project}). Then: denzel restart"
    )


def test_a_file_of_another_case_is_found(hint: Hint, project: Path) -> None:
    (project / "app" / "assets" / "Model.PKL").touch()
    assert hint(opening("app/assets/model.pkl")).startswith(
        "There is app/assets/Model.PKL: upper and lower case count here."
    )


@pytest.mark.parametrize("place", ["app/assets/model.pkl", "app/logic/model.pkl", "model.pkl"])
def test_a_file_in_another_folder_is_found(place: str, hint: Hint, project: Path) -> None:
    (project / place).touch()
    assert hint(opening("models/model.pkl")).startswith(f"There is ./{place}: mend the path in app/logic")


@pytest.mark.parametrize("path", ["/home/ann/thesis/net.pkl", "C:\\Users\\Ann\\net.pkl"])
def test_a_path_of_another_machine_is_named_as_such(path: str, hint: Hint) -> None:
    assert hint(opening(path)).startswith(
        f"{path} is a path of another machine. Put the file into app/assets, and open ./app/assets/net.pkl."
    )


def test_a_program_that_is_not_installed_is_one_of_the_operating_system(hint: Hint) -> None:
    text = hint("import subprocess\ndef load_model():\n    subprocess.run(['ffmpegg'])\n")
    assert text.startswith("The program ffmpegg is not installed. Put into requirements.sh: ")


# ------------------------------------------------------------ the imports


@pytest.mark.parametrize(
    ("line", "package"),
    [
        ("import cv2", "opencv-python-headless"),
        ("import bs4", "beautifulsoup4"),
        ("import skimage.io", "scikit-image"),
        ("import lightgbmm", "lightgbmm"),
        ("from google.cloud import storage", "google"),
    ],
)
def test_a_missing_package_goes_by_its_own_name(line: str, package: str, hint: Hint) -> None:
    text = hint(f"{line}\ndef load_model(): pass\n")
    assert text.startswith(f"Add {package} to requirements.txt")
    assert text.endswith("Then: denzel updatereqs")


def test_a_package_that_is_required_but_not_installed_needs_an_update(hint: Hint, project: Path) -> None:
    (project / "requirements.txt").write_text("numpy\nOpenCV_Python.Headless==4.10 # images\n")
    assert hint("import cv2\n") == (
        "opencv-python-headless is in requirements.txt, and not installed yet: denzel updatereqs"
    )


def test_a_module_beside_the_pipeline_is_imported_from_its_package(hint: Hint, project: Path) -> None:
    (project / "app" / "logic" / "features.py").touch()
    assert hint("import features\n").startswith("app/logic/features.py is imported by: from app.logic import features.")
    assert hint("from features import ratio\n").startswith("app/logic/features.py is imported by: from app.logic")


def test_a_name_that_the_installed_version_lacks_is_a_matter_of_versions(hint: Hint) -> None:
    text = hint("from sklearn.linear_model import LogisticRegressionX\n")
    assert text.startswith(f"scikit-learn {sklearn.__version__} is installed, and has no LogisticRegressionX")
    text = hint("import sklearn.externals.joblib\n")
    assert text.startswith(f"scikit-learn {sklearn.__version__} is installed, and has no sklearn.externals")


@pytest.mark.parametrize(
    ("library", "package"),
    [("libGL.so.1", "libgl1"), ("libgomp.so.1", "libgomp1"), ("libgthread-2.0.so.0", "libglib2.0-0")],
)
@pytest.mark.parametrize("kind", ["ImportError", "OSError"])
def test_a_library_of_the_system_goes_into_requirements_sh(kind: str, library: str, package: str, hint: Hint) -> None:
    text = hint(f"raise {kind}('{library}: cannot open shared object file: No such file or directory')\n")
    assert text.startswith(f"{library} is a library of the operating system. Put into requirements.sh: apt-get update")
    assert f"--no-install-recommends {package}. Then: denzel updateosreqs." in text
    assert ("opencv-python-headless" in text) is (library == "libGL.so.1")


def test_cudas_libraries_are_not_debians(hint: Hint) -> None:
    text = hint("raise ImportError('libcudart.so.12: cannot open shared object file: No such file or directory')\n")
    assert text.startswith("libcudart.so.12 belongs to CUDA")
    assert "apt-get" not in text


# ------------------------------------------------------- everything else


def test_a_missing_variable_belongs_into_pipeline_env(hint: Hint) -> None:
    text = hint("import os\ndef load_model():\n    return os.environ['HF_TOKEN']\n")
    assert text == "Set the variable in pipeline.env: HF_TOKEN=... Then: denzel restart"


def test_any_other_failure_is_named_with_its_line(hint: Hint) -> None:
    text = hint("def load_model():\n    return {}['weights']\n")
    assert text.startswith("It was raised in load_model, at app/logic/pipeline.py, line 2:")


def test_a_syntax_error_is_named_with_its_line(hint: Hint) -> None:
    assert hint("def load_model():\n    return (\n") == "Fix app/logic/pipeline.py, line 2. Then: denzel restart"


def test_lack_of_memory_is_named(hint: Hint) -> None:
    assert hint("def load_model():\n    raise MemoryError\n").startswith("Memory ran out: set a lower WORKER_CONC")
