"""Hints for what cannot be unpickled: another version of a library or of Python, a missing class, half a file."""

from __future__ import annotations

import pickle
import re
import sys
import zipfile
import zlib
from pathlib import Path

from app.serving.worker.model.hints import model_files, packages
from app.serving.worker.model.hints.frames import frames, is_import_statement, unpickles

_LACKS = re.compile(r"Can't get attribute '(?P<name>[^']+)' on <module '(?P<module>[^']+)'")
_PROTOCOL = re.compile(r"unsupported pickle protocol: (\d+)")

#: What an unpickler says about a file that ends too soon.
_CUT_OFF = re.compile(
    "Ran out of input|pickle data was truncated|incomplete or truncated stream|Compressed file ended before"
    "|failed finding central directory|File is not a zip file|unexpected end of data|Error -5|pickle exhausted"
)
_NO_PICKLE = re.compile(
    "invalid load key|could not find MARK|unpickling stack underflow|STRING opcode|invalid start byte"
)

#: What Python says about compiled code that another release of it has written: cloudpickle and dill store that.
_OTHER_PYTHON = re.compile(
    r"code(?:\(\))? (?:expected|argument)|bad marshal data|unknown opcode|an integer is required"
)

#: The module of scikit-learn in whose Cython code a pickle of another version fails.
_SKLEARN_DATA = re.compile(r"node array from the pickle|sklearn|Buffer dtype mismatch")


def unpickling_hint(error: BaseException) -> str:
    """The hint for an exception that was raised while something was unpickled; empty for any other."""
    if not unpickles(error):
        return ""
    text = str(error)
    files = model_files.files_of(error)
    lacking = _LACKS.search(text)
    if isinstance(error, AttributeError) and lacking:
        return _lacking(lacking["module"], lacking["name"], files)
    if isinstance(error, ImportError):
        return "" if is_import_statement(error) else _not_importable(error.name or "", files)
    protocol = _PROTOCOL.search(text)
    if protocol:
        return (
            f"The file was written with pickle's protocol {protocol[1]}; Python {_python()} reads up to"
            f" {pickle.HIGHEST_PROTOCOL}. Save it again with protocol={pickle.HIGHEST_PROTOCOL}. Then: denzel restart"
        )
    if isinstance(error, EOFError | zlib.error | zipfile.BadZipFile) or _CUT_OFF.search(text):
        return _cut_off(files)
    if "weights_only" in text.lower() or "Weights only" in text:
        return "If you trust the file: torch.load(..., weights_only=False) in app/logic. Then: denzel restart"
    if isinstance(error, pickle.UnpicklingError) or _NO_PICKLE.search(text):
        what = next(filter(None, map(model_files.kind, files)), "")
        name = files[0] if files else "The file"
        what = what or f"{name} is no pickle: was it saved with another library, or changed on its way"
        return f"{what}. Then: denzel restart"
    if isinstance(error, TypeError | ValueError) and _OTHER_PYTHON.search(text):
        return (
            f"The file holds code that was compiled by another Python than this one, {_python()}: save it with"
            f" {_python()}, or save the data alone. Then: denzel restart"
        )
    return _other_version(error, files)


def _lacking(module: str, name: str, files: list[Path]) -> str:
    # As the worker's own was started from a package, it shows that name.
    if module in ("__main__", "__mp_main__") or f"<module '{module}'" in repr(sys.modules["__main__"]):
        # A class within a class, Outer.Inner, comes with the outer one.
        name = name.partition(".")[0]
        return (
            f"Your training script defined {name}. Define it in app/logic/pipeline.py too, or import it there: from"
            f" app.logic.my_module import {name}. Then: denzel restart"
        )
    if module.partition(".")[0] == "app":
        return f"{module} has no {name} any more: the model was saved when it had. Then: denzel restart"
    return _versions(module, files)


def _not_importable(module: str, files: list[Path]) -> str:
    """A hint on a module that the file asks for. No package is named for it: an index may have anything of its name."""
    if module.partition(".")[0] == "numpy" and packages.installed_version("numpy"):
        wrote = "2" if module.startswith("numpy._core") else "another version"
        return (
            f"The file was saved with NumPy {wrote}, and NumPy {packages.installed_version('numpy')} is installed."
            f" Write the NumPy that saved it into requirements.txt{' (numpy>=2)' if wrote == '2' else ''}, or save the"
            " model again with the one here. Then: denzel updatereqs"
        )
    if packages.saves_models(module):
        if packages.is_installed(module):
            return _versions(module, files)
        name = packages.distribution(module)
        version = _written_by(module, files)
        return (
            f"The file was saved with {name}{f' {version}' if version else ''}, which is not installed here. Write"
            f" {name}=={version or '<the version that saved it>'} into requirements.txt. Then: denzel updatereqs"
        )
    if packages.is_installed(module):
        return _versions(module, files)
    return (
        f"The file asks for the module {module}. Either it was a file beside your training script: then put"
        f" {module.partition('.')[0]}.py into the project folder, beside app/, or save the model again with its classes"
        " in app/logic. Or a library's other version had it: then write that version into requirements.txt. Do not"
        " install a package of that name on a guess. Then: denzel updatereqs"
    )


def _versions(module: str, files: list[Path]) -> str:
    name, here = packages.distribution(module), packages.installed_version(module)
    wrote = _written_by(module, files)
    saved = f"{name} {wrote}" if wrote else f"another version of {name}"
    return (
        f"The file was saved with {saved}, and {here or 'another one'} is installed. Write"
        f" {name}=={wrote or '<the version that saved it>'} into requirements.txt, then: denzel updatereqs. Or save the"
        f" model again with {name} {here}".rstrip()
        + ", then: denzel restart"
    )


def _written_by(module: str, files: list[Path]) -> str:
    """The version that saved the files, which scikit-learn alone notes in them."""
    if packages.root_of(module) != "sklearn":
        return ""
    return next(filter(None, map(model_files.sklearn_version, files)), "")


def _other_version(error: BaseException, files: list[Path]) -> str:
    """A hint where a library's own code failed on what was unpickled, and its version is not the one that wrote it."""
    here = packages.installed_version("sklearn")
    wrote = next(filter(None, map(model_files.sklearn_version, files)), "")
    if wrote and here and wrote != here:
        return _versions("sklearn", files)
    if _SKLEARN_DATA.search(str(error)) and here:
        return _versions("sklearn", files)
    if "BitGenerator" in str(error) or "numpy.random" in str(error):
        return _versions("numpy", files)
    for frame, _ in reversed(frames(error)):
        module = str(frame.f_globals.get("__name__", ""))
        if packages.saves_models(module) and packages.root_of(module) not in ("joblib", "dill", "cloudpickle", "torch"):
            return _versions(module, files)
    return ""


def _cut_off(files: list[Path]) -> str:
    if not files:
        return "The file ends too soon: copy it again, and compare its size. Then: denzel restart"
    path = files[0]
    size = path.stat().st_size
    return f"{path} ends too soon, after {size:,} bytes: copy it again, and compare its size. Then: denzel restart"


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
