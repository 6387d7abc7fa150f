"""Hint for a pipeline that cannot be loaded: the place of the cause, judged by the exception and its traceback."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable
from pathlib import Path

from app.serving.contract import ContractError
from app.serving.worker.model.hints import model_files, packages
from app.serving.worker.model.hints.frames import chain, frames, is_import_statement, unpickles, users_place
from app.serving.worker.model.hints.unpickling import unpickling_hint

_RESTART = "Then: denzel restart"

_CANNOT_IMPORT = re.compile(
    r"cannot import name '(?P<name>[^']+)' from (?:partially initialized module )?'(?P<module>[^']+)'"
)

#: Where the classes of exceptions are from that a network raises.
_NETWORK = ("requests", "urllib3", "urllib.error", "http.client", "httpx", "httpcore", "botocore", "aiohttp", "ssl")


def failure_hint(error: BaseException) -> str:
    """One or two sentences: what to do about a load that raised `error`."""
    # The first exception is the cause, if it says anything; what was raised while it was handled may hide it.
    for one in reversed(list(chain(error))):
        for judge in _JUDGES:
            found = judge(one)
            if found:
                return found if "denzel " in found else f"{found}. {_RESTART}"
    return _fallback(error)


def _contract(error: BaseException) -> str:
    return f"Fix app/logic/pipeline.py. {_RESTART}" if isinstance(error, ContractError) else ""


def _file_fault(error: BaseException) -> str:
    """A file that is no model: a pointer, empty, a web page."""
    if isinstance(error, FileNotFoundError | ImportError | SyntaxError):
        return ""
    return next(filter(None, map(model_files.fault, model_files.files_of(error))), "")


def _library(error: BaseException) -> str:
    missing = packages.missing_library(str(error)) if isinstance(error, ImportError | OSError) else None
    if missing is None:
        return ""
    library, package = missing
    if re.match(r"lib(cuda|nvidia|nvrm)\b", library):
        return (
            f"{library} comes with NVIDIA's driver: a project made with startproject --gpu gets it on a machine that"
            " has one. For the CPU, install the package's build for it. Then: denzel updatereqs"
        )
    if re.match(r"lib(cu|nv|nccl)", library):
        return (
            f"{library} belongs to CUDA: install the package's build for the CPU, or the one that carries CUDA, by"
            " requirements.txt. Then: denzel updatereqs"
        )
    install = f"apt-get update && apt-get install --yes --no-install-recommends {package or '<its package>'}"
    search = "" if package else " (packages.debian.org finds its package)"
    opencv = " Or take opencv-python-headless in requirements.txt, which needs none." if package == "libgl1" else ""
    return (
        f"{library} is a library of the operating system{search}. Put into requirements.sh: {install}. Then: denzel"
        f" updateosreqs.{opencv}"
    )


def _import(error: BaseException) -> str:
    if not isinstance(error, ImportError) or not (is_import_statement(error) or not unpickles(error)):
        return ""
    circular = "partially initialized module" in str(error)
    named = _CANNOT_IMPORT.search(str(error))
    module = error.name or (named["module"] if named else "")
    if not module:
        return ""
    if circular or module.partition(".")[0] == "app":
        return _own_module(module, named["name"] if named else "", circular=circular)
    if isinstance(error, ModuleNotFoundError):
        own = _beside_pipeline(module)
        if own:
            return own
        if not packages.is_installed(module):
            return _missing_package(module)
    version = packages.installed_version(module)
    return (
        f"{packages.distribution(module)} {version or '(its version is unknown)'} is installed, and has no"
        f" {named['name'] if named else module}: the code was written for another version. Write that one into"
        f" requirements.txt ({packages.distribution(module)}==...). Then: denzel updatereqs"
    )


def _missing_package(module: str) -> str:
    replacement = packages.replacement_of_removed(module)
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    if replacement is not None:
        add = f": add {replacement} to requirements.txt, or" if replacement else ":"
        return (
            f"{python} has no module {module} any more{add} take a release of the package that imports it which runs on"
            f" {python}. Then: denzel updatereqs"
        )
    name = packages.distribution(module)
    if packages.is_required(name):
        return f"{name} is in requirements.txt, and not installed yet: denzel updatereqs"
    other = f" (the package of the module {module})" if name != module else ""
    return f"Add {name} to requirements.txt{other}. Then: denzel updatereqs"


def _beside_pipeline(module: str) -> str:
    """A module of the user's that is imported as if the project were not a package."""
    first = module.partition(".")[0]
    for path in (Path("app/logic") / f"{first}.py", Path("app/logic") / first):
        found = model_files.near(path)
        if found and found.parent == Path("app/logic") and found.stem != "pipeline":
            return f"{found} is imported by: from app.logic import {found.stem}. Mend the line. {_RESTART}"
    return ""


def _own_module(module: str, name: str, *, circular: bool) -> str:
    if circular:
        return f"{module} is imported by a module that it imports itself: move one of the imports into a function"
    path = Path(*module.split("."))
    known = path.with_suffix(".py") if path.with_suffix(".py").exists() else path if path.is_dir() else None
    if known:
        return f"{known} has no {name}: mend the import, or define it there" if name else ""
    found = model_files.near(path.with_suffix(".py"))
    if found and found.parent == path.parent:
        return f"There is {found}, and no {path}.py: upper and lower case count here. Rename one of them"
    return f"There is no {path}.py in the project: put the module there, or mend the import"


def _missing_file(error: BaseException) -> str:
    if not isinstance(error, FileNotFoundError) or not error.filename:
        return ""
    path = Path(str(error.filename))
    if any(Path(frame.f_code.co_filename).name == "subprocess.py" for frame, _ in frames(error)):
        return (
            f"The program {path} is not installed. Put into requirements.sh: apt-get update && apt-get install --yes"
            f" --no-install-recommends {path.name}. Then: denzel updateosreqs"
        )
    here = f"paths are relative to the project folder, {Path.cwd()}"
    found = model_files.near(path)
    if found and found.parent == path.parent:
        return f"There is {found}: upper and lower case count here. Rename the file, or mend the path. {_RESTART}"
    if found:
        return f"There is ./{found}: mend the path in app/logic ({here}). {_RESTART}"
    if (path.is_absolute() and not path.is_relative_to(Path.cwd())) or "\\" in str(path):
        name = re.split(r"[/\\]", str(path))[-1]
        return (
            f"{path} is a path of another machine. Put the file into app/assets, and open ./app/assets/{name}."
            f" {_RESTART}"
        )
    if Path("/.dockerenv").exists() and not path.absolute().is_relative_to(Path.cwd() / "app"):
        return (
            f"The container has of {path.absolute()} what the last build copied, without what .dockerignore names. Move"
            f" the file into app/assets, which is always there, and open ./app/assets/{path.name}. {_RESTART}"
        )
    return f"Put {path.name} into {path.parent} of the project ({here}). {_RESTART}"


def _system(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"Memory ran out: set a lower WORKER_CONCURRENCY in .env, or MODEL_SHARING=fork. {_RESTART}"
    if not isinstance(error, OSError):
        return ""
    if error.errno == errno.ENOSPC:
        return f"The disk is full: free some space. {_RESTART}"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and error.filename:
        return (
            f"The services may not use {error.filename} so: in a container, app/ can only be read, and temporary files"
            f" go into /tmp. {_RESTART}"
        )
    return ""


def _variable(error: BaseException) -> str:
    """A variable that os.environ lacks."""
    found = frames(error)
    if not isinstance(error, KeyError) or not found or len(error.args) != 1:
        return ""
    code = found[-1][0].f_code
    if code.co_name != "__getitem__" or Path(code.co_filename).name not in ("os.py", "<frozen os>"):
        return ""
    return f"Set the variable in pipeline.env: {error.args[0]}=... {_RESTART}"


def _network(error: BaseException) -> str:
    names = [f"{kind.__module__}." for kind in type(error).__mro__]
    is_network = any(name.startswith(tuple(f"{one}." for one in _NETWORK)) for name in names)
    if not is_network and not isinstance(error, ConnectionError | TimeoutError):
        return ""
    return (
        "The service could not reach a host. Is the network there (denzel shell --service denzel), and is a proxy"
        f" needed? That goes into pipeline.env: HTTPS_PROXY=... {_RESTART}"
    )


def _syntax(error: BaseException) -> str:
    if not isinstance(error, SyntaxError) or not error.filename:
        return ""
    path = Path(error.filename)
    if path.is_relative_to(Path.cwd() / "app"):
        return f"Fix {path.relative_to(Path.cwd())}, line {error.lineno}. {_RESTART}"
    return ""


def _fallback(error: BaseException) -> str:
    place = users_place(error)
    if place is None:
        return "The traceback is in the log: denzel logworker. When fixed: denzel restart"
    path, line, function = place
    where = f"in {function}, " if function != "<module>" else ""
    return (
        f"It was raised {where}at {path}, line {line}: the traceback is in the log, denzel logworker. When fixed:"
        " denzel restart"
    )


_JUDGES: tuple[Callable[[BaseException], str], ...] = (
    _contract,
    _file_fault,
    _library,
    unpickling_hint,
    _import,
    _missing_file,
    _system,
    _variable,
    _network,
    _syntax,
)
