"""Variables of the user's own code: the file pipeline.env, read as Docker Compose reads an `env_file`.

What Compose would change or read in its own way (compose-go's dotenv) is refused here, so that a value is the same on
both backends: above all `$`, which it replaces outside of single quotes.
"""

from __future__ import annotations

import re
from pathlib import Path

from denzel.errors import SettingInvalid
from denzel.project.dotenv import FORMER_KEYS, KEYS
from denzel.project.env_file import read_text

#: What denzel itself gives the services, beside the keys of .env; and what would keep them from starting.
_OWN = frozenset(
    (
        *("PROJECT_NAME", "REDIS_URL", "REDISCLI_AUTH", "REDIS_BIND", "REDIS_DATA", "REDIS_SERVER_PROGRAM"),
        *("API_BIND", "MONITOR_BIND", "CALLBACK_LOOPBACK", "OWN_SERVICES", "WORKER_LOG", "SPT_NOENV"),
        *("PATH", "VIRTUAL_ENV", "PYTHONHOME", "BASH_ENV", "PYTHONUNBUFFERED"),
    )
)

_KEY = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)

#: Escapes within double quotes. Compose leaves the \ before other characters, but for those of _REFUSED.
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}
_REFUSED = "abcfv0"


class _Malformed(Exception):
    """A line that is not allowed: why, and what to write."""


def read(path: Path) -> dict[str, str]:
    """The variables in the file, none where it is missing; raises SettingInvalid, which names the line."""
    if not path.exists():
        return {}
    text = read_text(path, remedy="Make the file yours.")
    variables: dict[str, str] = {}
    position = 0
    while position < len(text):
        number = text.count("\n", 0, position) + 1
        end = _end_of_line(text, position)
        line = text[position:end].strip()
        if not line or line.startswith("#"):
            position = end + 1
            continue
        position += len(text[position:]) - len(text[position:].lstrip())
        try:
            name, value, position = _variable(text, position)
        except _Malformed as error:
            reason, hint = error.args
            raise SettingInvalid(f"Line {number} of {path} {reason}.", hint=hint) from None
        variables[name] = value
    return variables


def _variable(text: str, start: int) -> tuple[str, str, int]:
    """The variable that begins there, its value, and where the next line begins."""
    match = _KEY.match(text, start)
    if match is None:
        # Not the line itself: it may be half a secret.
        raise _Malformed(
            "is not a variable", "Write NAME=value, or # and a comment. A value of several lines: in quotes."
        )
    name = match[1]
    if name in KEYS or name in FORMER_KEYS:
        raise _Malformed(f"sets {name}, which is a setting of denzel's", f"Set {name} in .env.")
    if name in _OWN or name.startswith("DENZEL_"):
        raise _Malformed(f"sets {name}, which denzel sets itself", "Remove the line.")
    position = match.end()
    if text[position : position + 1] in ("'", '"'):
        value, position = _quoted(name, text, position)
    else:
        end = _end_of_line(text, position)
        value, position = _plain(name, text[position:end], is_spaced=text[position - 1] in " \t"), end
    if "\0" in value:
        raise _Malformed(f"has a zero byte in the value of {name}", "Remove it.")
    return name, value, position + 1


def _plain(name: str, raw: str, *, is_spaced: bool) -> str:
    if raw.startswith("#") and is_spaced:
        raise _Malformed(f"has a comment in place of a value of {name}", "Put the comment on a line of its own.")
    value = raw.partition(" #")[0].strip()
    if "$" in value:
        raise _dollar(name)
    return value


def _quoted(name: str, text: str, start: int) -> tuple[str, int]:
    """The value in quotes, which may have several lines, and where its last line ends."""
    quote = text[start]
    end = start + 1
    while end < len(text) and text[end] != quote:
        end += 2 if text[end] == "\\" else 1
    if end >= len(text):
        raise _Malformed(
            f"begins a value of {name} that has no closing {quote}",
            "Close the quotes; a quote of the same kind inside is written with a \\ before it.",
        )
    line_end = _end_of_line(text, end)
    rest = text[end + 1 : line_end].strip()
    if rest and not rest.startswith("#"):
        raise _Malformed(
            f"has more than a comment after the quotes of {name}",
            "Put the whole value into one pair of quotes; a quote of the same kind inside gets a \\ before it.",
        )
    raw = text[start + 1 : end]
    if quote == "'":
        return raw.replace("\\'", "'"), line_end
    if re.search(r"(?<!\\)(?:\\\\)*\$", raw):
        raise _dollar(name)
    return _ESCAPE.sub(lambda match: _unescaped(name, match[1]), raw), line_end


def _unescaped(name: str, character: str) -> str:
    if character in _REFUSED:
        raise _Malformed(
            f"has \\{character} in the value of {name}", "Put the value into single quotes, where \\ is \\ itself."
        )
    return _ESCAPED.get(character, f"\\{character}")


def _dollar(name: str) -> _Malformed:
    return _Malformed(
        f"has a $ in the value of {name}, which Docker Compose would replace",
        f"Put the value into single quotes: {name}='...'",
    )


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end
