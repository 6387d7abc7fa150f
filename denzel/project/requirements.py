"""Failures of uv and pip: the lines of requirements.txt and runtime.txt that do not go together, or another cause."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from denzel.errors import BuildFailed

_CONFLICT = re.compile(r"unsatisfiable|are incompatible|conflicting dependencies|ResolutionImpossible")
_UNKNOWN = re.compile(r"was not found in the package registry|there (?:is|are) no versions? of|no wheels")
_NAME = re.compile(r"\s*([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?\s*([^#;]*?)\s*(?:[#;].*)?")

#: Causes that no line of requirements.txt has, by the words of uv, pip and Docker; each with what to do.
_CAUSES = {
    r"No space left on device|os error 28\b|Errno 28\b|Disk quota exceeded": (
        "The disk is full: free some space (docker system df shows what Docker holds)"
    ),
    r"os error 13\b|Errno 13\b|Read-only file system": "Make the project folder, and .denzel in it, writable for you",
    r"invalid peer certificate|CERTIFICATE_VERIFY_FAILED|UnknownIssuer|SSLError": (
        "The package index has a certificate that is not trusted here, as behind a company's proxy: set SSL_CERT_FILE"
    ),
    r"401 Unauthorized|403 Forbidden|HTTP error 40[13]": "The package index asks for credentials, or refuses yours",
    # pip tries again until `total` is 0.
    r"error sending request|dns error|Failed to fetch|network was disabled|Retry\(total=0,|operation timed out"
    r"|Read timed out|connection reset|tcp connect error|status server error|IncompleteRead": "Check your network",
}


@dataclass(frozen=True)
class _Line:
    file: str
    number: int
    name: str
    text: str

    def __str__(self) -> str:
        return f"line {self.number} of {self.file}, {self.text}"


def explained(failure: BuildFailed, root: Path, output: str) -> BuildFailed:
    """The failure, with the lines that do not go together, or the cause that lies elsewhere, if `output` shows it."""
    for pattern, remedy in _CAUSES.items():
        if re.search(pattern, output, re.IGNORECASE):
            return _with(failure, str(failure), f"{remedy}, then repeat the command. What ran before still runs.")
    if not _CONFLICT.search(output) or _UNKNOWN.search(output):
        return failure
    users = [line for line in _lines(root / "requirements.txt") if _is_named(line, output)]
    ours = [line for line in _lines(root / "runtime.txt") if _is_named(line, output)]
    # Of a package that both name, the rest of the message is only how it came to that.
    same = {line.name for line in users} & {line.name for line in ours}
    if same:
        users, ours = ([line for line in lines if line.name in same] for lines in (users, ours))
    if not users or len(users) + len(ours) < 2:
        return failure
    if not ours:
        listed = " and ".join(map(str, users))
        message = f"The requirements could not be installed: these do not go together: {listed}."
        return _with(failure, message, "Loosen or remove one of these lines, then repeat the command.")
    message = (
        f"The requirements could not be installed: {' and '.join(map(str, users))}: this does not go with what denzel's"
        f" serving code needs: {' and '.join(map(str, ours))}."
    )
    return _with(
        failure,
        message,
        f"Take {' and '.join(line.text for line in users)} out of requirements.txt, unless app/logic itself imports it"
        " (pip freeze lists all that was installed); or write the name without a version. runtime.txt stays as it is."
        " Then repeat the command. What ran before still runs.",
    )


def _with(failure: BuildFailed, message: str, hint: str) -> BuildFailed:
    return BuildFailed(message, hint=hint, detail=failure.detail)


def _lines(path: Path) -> list[_Line]:
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        match = _NAME.fullmatch(text)
        if match:
            found.append(_Line(path.name, number, _normal(match[1]), match[1] + match[2].replace(" ", "")))
    return found


def _is_named(line: _Line, output: str) -> bool:
    by_number = f"-r {line.file} (line {line.number})" in output
    return by_number or re.search(rf"(?<![\w.-]){re.escape(line.name)}(?![\w-]|\.\w)", _normal(output)) is not None


def _normal(text: str) -> str:
    """The text with names of packages as an index has them (PEP 503), but for dots, which versions have too."""
    return re.sub(r"[_-]+", "-", text).lower()
