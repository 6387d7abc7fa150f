"""Names of packages: the distribution that an import comes from, its version here, Debian's package for a library."""

from __future__ import annotations

import importlib.util
import re
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

#: Distributions whose name is not that of their module.
_DISTRIBUTIONS = {
    "Crypto": "pycryptodome",
    "Levenshtein": "python-Levenshtein",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyOpenSSL",
    "PIL": "Pillow",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "category_encoders": "category-encoders",
    "community": "python-louvain",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "PyMuPDF",
    "git": "GitPython",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.storage": "google-cloud-storage",
    "google.protobuf": "protobuf",
    "grpc": "grpcio",
    "imblearn": "imbalanced-learn",
    "jwt": "PyJWT",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "osgeo": "GDAL",
    "pkg_resources": "setuptools<81",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "pytorch_lightning": "pytorch-lightning",
    "sentence_transformers": "sentence-transformers",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "sksurv": "scikit-survival",
    "slugify": "python-slugify",
    "tensorflow_hub": "tensorflow-hub",
    "umap": "umap-learn",
    "whisper": "openai-whisper",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}

#: Libraries that models are commonly saved with: for these alone, a name in a model's file is a package to install.
_MODEL_LIBRARIES = frozenset(
    (
        *("catboost", "cloudpickle", "dill", "fastai", "flaml", "gensim", "imblearn", "interpret", "joblib", "keras"),
        *("lifelines", "lightgbm", "mlxtend", "numpy", "onnxruntime", "pandas", "polars", "prophet", "pyod", "scipy"),
        *("sentence_transformers", "shap", "sklearn", "sktime", "sksurv", "skorch", "spacy", "statsmodels"),
        *("tensorflow", "tokenizers", "torch", "torchvision", "transformers", "umap", "xgboost", "category_encoders"),
    )
)

#: Top-level names under which extension modules of a library were pickled by mistake (Cython).
_PARTS = {"_loss": "sklearn", "_criterion": "sklearn", "_splitter": "sklearn", "_tree": "sklearn"}

#: Modules that Python no longer has.
_REMOVED = {"distutils": "setuptools", "imp": "", "asynchat": "", "cgi": "", "telnetlib": "", "pipes": "", "crypt": ""}

#: Debian's packages of libraries that Python packages do not carry.
_DEBIAN = {
    "libEGL.so": "libegl1",
    "libGL.so": "libgl1",
    "libGLU.so": "libglu1-mesa",
    "libICE.so": "libice6",
    "libSM.so": "libsm6",
    "libX11.so": "libx11-6",
    "libXext.so": "libxext6",
    "libXrender.so": "libxrender1",
    "libfontconfig.so": "libfontconfig1",
    "libfreetype.so": "libfreetype6",
    "libgdal.so": "libgdal-dev",
    "libgfortran.so": "libgfortran5",
    "libglib-2.0.so": "libglib2.0-0",
    "libgobject-2.0.so": "libglib2.0-0",
    "libgomp.so": "libgomp1",
    "libgthread-2.0.so": "libglib2.0-0",
    "libhdf5.so": "libhdf5-dev",
    "libmagic.so": "libmagic1",
    "libmariadb.so": "libmariadb3",
    "libodbc.so": "unixodbc",
    "libopenblas.so": "libopenblas0",
    "libpq.so": "libpq5",
    "libportaudio.so": "libportaudio2",
    "libquadmath.so": "libquadmath0",
    "libsndfile.so": "libsndfile1",
    "libsox.so": "libsox-dev",
    "libstdc++.so": "libstdc++6",
    "libtesseract.so": "tesseract-ocr",
    "libxcb.so": "libxcb1",
    "libxml2.so": "libxml2",
    "libxslt.so": "libxslt1.1",
}

_MISSING_LIBRARY = re.compile(r"([\w.+-]+\.so[.\d]*): cannot open shared object file")


def root_of(module: str) -> str:
    """The top-level package of a module: for `_loss`, which scikit-learn has pickled as such, `sklearn`."""
    first = module.partition(".")[0]
    return _PARTS.get(first, first)


def saves_models(module: str) -> bool:
    """True for a module of a library that models are commonly saved with."""
    return root_of(module) in _MODEL_LIBRARIES


def distribution(module: str) -> str:
    """The distribution to install for a module, as far as that is known."""
    longest = max((name for name in _DISTRIBUTIONS if f"{module}.".startswith(f"{name}.")), key=len, default="")
    return _DISTRIBUTIONS[longest] if longest else _DISTRIBUTIONS.get(root_of(module), root_of(module))


def installed_version(module: str) -> str:
    """The version of a module's distribution here; empty when it is not installed."""
    with suppress(metadata.PackageNotFoundError, ValueError):
        return metadata.version(re.split("[<>=]", distribution(module))[0])
    return ""


def is_installed(module: str) -> bool:
    """True when the top-level package of a module can be imported here."""
    with suppress(ImportError, ValueError, AttributeError):
        return root_of(module) in sys.modules or importlib.util.find_spec(root_of(module)) is not None
    return False


def replacement_of_removed(module: str) -> str | None:
    """The package that has a module which Python no longer has; empty for none, None for any other module."""
    return _REMOVED.get(root_of(module))


def is_required(name: str, requirements: Path = Path("requirements.txt")) -> bool:
    """True when requirements.txt names the distribution."""
    with suppress(OSError, UnicodeDecodeError):
        lines = requirements.read_text(encoding="utf-8-sig").splitlines()
        names = (re.match(r"\s*([A-Za-z0-9][\w.-]*)", line) for line in lines)
        return _normal(re.split("[<>=]", name)[0]) in {_normal(one[1]) for one in names if one}
    return False


def missing_library(text: str) -> tuple[str, str] | None:
    """The library of the operating system that is missing, and Debian's package; the latter is empty when unknown."""
    found = _MISSING_LIBRARY.search(text)
    if found is None:
        return None
    return found[1], _DEBIAN.get(re.sub(r"(\.so)[.\d]*$", r"\1", found[1]), "")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
