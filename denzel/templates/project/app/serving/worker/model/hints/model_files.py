"""Files that a failing load was reading: their paths, what is in them, and the scikit-learn that wrote them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import mmap
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any

from app.serving.worker.model.hints.frames import frames

#: Bytes of a file that are looked at, and of a compressed one after it is unpacked.
_HEAD = 4096
_MAX_UNPACKED = 64 * 1024 * 1024

#: In a pickle: the key, perhaps a memo, the code and the length of a text, and the text.
_SKLEARN_KEY = b"_sklearn_version"
_SKLEARN_VERSION = re.compile(rb".{0,6}?(?:[\x8cU](.)|X(.)\0\0\0)(\d+\.\d+[\w.+-]{0,30})", re.DOTALL)

#: Of files that are models where only one of them is there, and the code does not show which is read.
_SUFFIXES = (".pkl", ".pickle", ".joblib", ".sav", ".pt", ".pth", ".dill", ".model", ".onnx", ".bin")

_GIT_LFS = b"version https://git-lfs.github.com/spec/"

#: First bytes of files, and what they are.
_KINDS = {
    b"PK\x03\x04": "a zip archive, as torch.save, np.savez and Keras write: load it with the library that saved it",
    b"\x89HDF\r\n": "an HDF5 file, as Keras and PyTables write: load it with the library that saved it",
    b"\x1f\x8b": "compressed by gzip: joblib.load reads it, pickle.load reads gzip.open(...)",
    b"\x78": "compressed, as by joblib: load it with joblib.load",
    b"PAR1": "a Parquet file: read it with pandas.read_parquet",
    b"\x93NUMPY": "an array of NumPy: load it with np.load",
    b"{": "JSON text, as XGBoost and others save: load it with the library that saved it",
    b"<?xml": "an XML text",
}


def files_of(error: BaseException) -> list[Path]:
    """The files below the project that the user's code was about to read, as far as names and values show them."""
    found: dict[Path, None] = {}
    for frame, _ in frames(error):
        if Path(frame.f_code.co_filename).is_relative_to(Path.cwd() / "app" / "logic"):
            names = frame.f_code.co_names
            values = [*frame.f_locals.values(), *(frame.f_globals.get(name) for name in names)]
            for text in (*_texts(frame.f_code), *map(_path_of, values)):
                with suppress(OSError, ValueError):
                    path = Path(text) if text else None
                    if path and path.is_file() and path.suffix != ".py":
                        found[path] = None
    assets = [path for path in Path("app/assets").glob("*") if path.suffix in _SUFFIXES and path.is_file()]
    return list(found) or (assets if len(assets) == 1 else [])


def fault(path: Path) -> str:
    """A sentence on a file that cannot be the model, whatever it is read with; empty for any other."""
    head = _head(path)
    if head.startswith(_GIT_LFS):
        return f"{path} is a pointer of Git LFS, and not the model. Fetch it: git lfs pull"
    if not head:
        return f"{path} is empty. Copy the model there again"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"{path} is a web page, and not the model: the download went wrong. Copy the model there again"
    return ""


def kind(path: Path) -> str:
    """The kind of a file that is no pickle, in a sentence; empty when that is not known."""
    head = _head(path)
    if b"joblib.numpy_pickle" in head:
        return f"{path} was saved by joblib: load it with joblib.load"
    return next((f"{path} is {what}" for first, what in _KINDS.items() if head.startswith(first)), "")


def sklearn_version(path: Path) -> str:
    """The scikit-learn that wrote a pickle, also one that joblib has compressed; empty when that is not to be found."""
    with suppress(OSError, ValueError, EOFError, zlib.error, lzma.LZMAError), path.open("rb") as file:
        unpacked = _unpacked(path, file.read(6))
        if unpacked is not None:
            return _version_in(unpacked)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _version_in(content)
    return ""


def near(path: Path) -> Path | None:
    """A file of the project that a missing one may be: of another case, or in another folder."""
    folder = path.parent if path.parent.is_dir() else Path("app/assets")
    places = [folder, Path("app/assets"), Path("app"), Path("app/logic"), Path()]
    for place in places:
        with suppress(OSError):
            for one in sorted(place.iterdir()):
                if one.name.casefold() == path.name.casefold():
                    return one
    return None


def _head(path: Path) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        return file.read(_HEAD)
    return b"?"


def _version_in(content: bytes | mmap.mmap) -> str:
    start = content.find(_SKLEARN_KEY) + len(_SKLEARN_KEY)
    found = _SKLEARN_VERSION.match(content[start : start + 80]) if start >= len(_SKLEARN_KEY) else None
    return found[3][: ord(found[1] or found[2])].decode() if found else ""


def _unpacked(path: Path, first: bytes) -> bytes | None:
    if first.startswith(b"\x78"):
        with path.open("rb") as file:
            return zlib.decompressobj().decompress(file.read(_MAX_UNPACKED), _MAX_UNPACKED)
    for magic, opened in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open)):
        if first.startswith(magic):
            with opened(path, "rb") as unpacked:
                content: bytes = unpacked.read(_MAX_UNPACKED)
                return content
    return None


def _texts(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str) and 0 < len(constant) < 1000 and "\n" not in constant:
            yield constant


def _path_of(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str) and 0 < len(value) < 1000 and "\n" not in value:
        return value
    if isinstance(value, io.IOBase):
        name = getattr(value, "name", "")
        return name if isinstance(name, str) else ""
    return ""
