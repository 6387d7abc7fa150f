"""Settings of a project: .env, overridden by the environment and by options, as one frozen object."""

from __future__ import annotations

import base64
import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from denzel.errors import SettingInvalid
from denzel.project.env_file import read_text, replace_text
from denzel.project.library_variables import is_of_a_library


@dataclass(frozen=True)
class Key:
    """One key of .env: its default as text, its parser, and the description of the allowed values, with their unit.

    `parse` raises ValueError for a text that is not allowed.
    """

    default: str
    parse: Callable[[str], Any]
    allowed: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that denzel itself uses, each named by its key; the serving code reads others.

    `redis_memory_mb` is in megabytes (0: no limit), `response_timeout` in seconds. `texts` has every key as text, with
    defaults filled in, for the programs that denzel starts; and those of FORMER_KEYS that are set.
    """

    compose_name: str
    backend: str
    api_host: str
    api_port: int
    monitor_host: str
    monitor_port: int
    monitor_user: str
    monitor_password: str
    redis_password: str
    redis_server: str
    redis_memory_mb: int
    redis_fsync: str
    callback_secret: str
    response_mode: str
    response_timeout: float
    texts: Mapping[str, str]


def _matches(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError
        return text

    return parse


def _number(kind: Callable[[str], float], minimum: float, maximum: float) -> Callable[[str], Any]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
            raise ValueError
        value = kind(text)
        if not minimum <= value <= maximum:
            raise ValueError
        return value

    return parse


def _optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: text and parse(text)


def _address(text: str) -> str:
    return str(ipaddress.IPv4Address(text))


def _secret(text: str) -> str:
    if text and not (text.startswith("whsec_") and 24 <= len(base64.b64decode(text[6:], validate=True)) <= 64):
        raise ValueError
    return text


def _host_list(text: str) -> tuple[str, ...]:
    words = tuple(filter(None, text.split(",")))
    for word in words:
        try:
            ipaddress.ip_network(word)
        except ValueError:
            _matches(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")(word)
    return words


_HOSTS = "host names, *.domains, addresses and networks (10.0.0.0/8), with commas and no spaces between"
_PORT = (_number(int, 1, 65535), "a port number from 1 to 65535")
_SECONDS = "a number of seconds"
_STAMP = (_matches(r"[0-9TZ:+-]*"), "written by denzel; leave it as it is")
_ID = (_number(int, 1, 2**31), "a user or group id of 1 or more")

#: Every key of .env, as documented in docs/settings.md; a key without a text has its default.
KEYS: Mapping[str, Key] = {
    "COMPOSE_PROJECT_NAME": Key(
        "",
        _matches("(?=[a-z])[a-z0-9]+((_|__|-+)[a-z0-9]+)*"),
        "words of lower-case letters and digits, with _ or - between",
    ),
    "BACKEND": Key("docker", _matches("docker|local"), "docker or local"),
    "API_HOST": Key("0.0.0.0", _address, "an IPv4 address of this machine, or 0.0.0.0 for all"),
    "API_PORT": Key("8000", *_PORT),
    "API_WORKERS": Key("1", _number(int, 1, 1000), "a number of processes from 1 to 1000"),
    "API_THREADS": Key("64", _number(int, 4, 10000), "a number of threads from 4 to 10000"),
    "API_KEYS": Key(
        "",
        _matches(r"([A-Za-z0-9._~+/=-]+(,[A-Za-z0-9._~+/=-]+)*)?"),
        "keys of letters, digits and ._~+/=-, with commas and no spaces between",
    ),
    "RESPONSE_MODE": Key("async", _matches("async|sync"), "async or sync"),
    "RESPONSE_TIMEOUT": Key("5", _number(float, 0, 300), f"{_SECONDS} from 0 to 300"),
    "BODY_LIMIT_MB": Key("10", _number(float, 0.001, 500), "a number of megabytes from 0.001 to 500"),
    "QUEUE_LIMIT": Key("10000", _number(int, 1, 10**9), "a number of tasks of 1 or more"),
    "WORKER_CONCURRENCY": Key("", _optional(_number(int, 1, 1000)), "a number of processes from 1 to 1000, or empty"),
    "MODEL_SHARING": Key("process", _matches("process|fork"), "process or fork"),
    "WORKER_MEMORY_MB": Key("0", _number(int, 0, 10**7), "a whole number of megabytes of 0 or more"),
    "WORKER_MAX_TASKS": Key("0", _number(int, 0, 10**9), "a number of tasks of 0 or more"),
    "WORKER_MAX_MB": Key("0", _number(int, 0, 10**7), "a whole number of megabytes of 0 or more"),
    "RESULT_LIFETIME": Key("86400", _number(int, 1, 10**9), f"{_SECONDS} of 1 or more"),
    "BATCH_SIZE": Key("32", _number(int, 1, 10_000), "a number of tasks from 1 to 10000"),
    "TASK_MAX_DELIVERIES": Key("3", _number(int, 1, 1000), "a number of deliveries from 1 to 1000"),
    "TASK_TIME_LIMIT": Key("0", _number(float, 0, 10**7), f"{_SECONDS} of 0 or more"),
    "CALLBACK_TIMEOUT": Key("10", _number(float, 0.1, 3600), f"{_SECONDS} from 0.1 to 3600"),
    "CALLBACK_RETRY_FOR": Key("86400", _number(int, 0, 10**8), f"a whole {_SECONDS[2:]} of 0 or more"),
    "CALLBACK_LIFETIME": Key("604800", _number(int, 1, 10**9), f"a whole {_SECONDS[2:]} of 1 or more"),
    "CALLBACK_SECRET": Key("", _secret, "whsec_ and 24 to 64 bytes in base64, or empty"),
    "CALLBACK_ALLOW": Key("", _host_list, _HOSTS),
    "CALLBACK_DENY": Key("", _host_list, _HOSTS),
    "STOP_TIMEOUT": Key("30", _number(int, 10, 86400), f"a whole {_SECONDS[2:]} from 10 to 86400"),
    "MONITOR_HOST": Key("127.0.0.1", _address, "an IPv4 address of this machine, or 0.0.0.0 for all"),
    "MONITOR_PORT": Key("5555", *_PORT),
    "MONITOR_USER": Key("denzel", _matches("[A-Za-z0-9._-]+"), "letters, digits, . _ and -"),
    "MONITOR_PASSWORD": Key("", _matches("[A-Za-z0-9._-]*"), "letters, digits, . _ and -"),
    "REDIS_PASSWORD": Key("", _matches("[A-Za-z0-9_-]{8,}"), "8 or more letters, digits, _ and -"),
    "REDIS_MEMORY_MB": Key("0", _number(int, 0, 10**7), "a whole number of megabytes of 0 or more"),
    "REDIS_FSYNC": Key("everysec", _matches("everysec|always"), "everysec or always"),
    "REDIS_SERVER": Key("bundled", _matches("bundled|system"), "bundled or system"),
    "PROJECT_UID": Key("10001", *_ID),
    "PROJECT_GID": Key("10001", *_ID),
    "OS_REQUIREMENTS_UPDATED": Key("", *_STAMP),
    "PIP_REQUIREMENTS_UPDATED": Key("", *_STAMP),
}

#: Keys of earlier releases. They have no effect but on projects that these have made.
FORMER_KEYS = {"BATCH_WAIT_MS": Key("2", _number(float, 0, 10_000), "a number of milliseconds from 0 to 10000")}

#: Prefixes of keys that Compose, Docker and BuildKit read from the same file.
_FOREIGN = ("COMPOSE_", "DOCKER_", "BUILDKIT_")

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")

#: A quoted value, and perhaps a comment. As in Compose, it ends at the first quote of its kind without a \ before it.
_QUOTED = re.compile(r"""(['"])(?>(.*?)(?<!\\)\1)\s*(#.*)?""")


def load(env_file: Path, environ: Mapping[str, str], options: Mapping[str, str] | None = None) -> Settings:
    """The settings of a project: of each key the option, else the environment's text, else .env's, else the default.

    Raises SettingInvalid.
    """
    given = {key: environ[key].strip() for key in (*KEYS, *FORMER_KEYS) if environ.get(key, "").strip()}
    texts = {**read(env_file), **given, **(options or {})}
    values = check(texts)
    former = {name: texts[name] for name in FORMER_KEYS if texts.get(name)}
    return Settings(
        compose_name=values["COMPOSE_PROJECT_NAME"],
        texts={name: texts.get(name) or key.default for name, key in KEYS.items()} | former,
        **{field.name: values[field.name.upper()] for field in fields(Settings) if field.name.upper() in KEYS},
    )


def check(texts: Mapping[str, str]) -> dict[str, Any]:
    """Every key's typed value, with defaults filled in; raises SettingInvalid for a text that is not allowed."""
    values: dict[str, Any] = {}
    for name, key in {**KEYS, **FORMER_KEYS}.items():
        text = texts.get(name) or key.default
        try:
            values[name] = key.parse(text)
        except ValueError:
            hint = f"Set {name} in .env, or in your environment."
            raise SettingInvalid(f"{name} is {text!r}; allowed is {key.allowed}.", hint=hint) from None
    return values


def read(env_file: Path) -> dict[str, str]:
    """The keys of the file with their texts; raises SettingInvalid for an unknown key, and for any line but KEY=value,
    an empty one or a comment.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(_lines(env_file), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise SettingInvalid(
                f"Line {number} of {env_file} is {line!r}.", hint="Write KEY=value, or # and a comment."
            )
        name, value = match.groups()
        known = KEYS.get(name) or FORMER_KEYS.get(name)
        if known is None and not name.startswith(_FOREIGN):
            raise SettingInvalid(f"Line {number} of {env_file} sets {name}, which is unknown.", hint=_similar(name))
        plain = _unquote(value)
        if plain is None:
            allowed = known.allowed if known else "any text"
            raise SettingInvalid(
                f"{name} is {value!r}; allowed is {allowed}, without quotes or within one pair.",
                hint=f"Fix line {number} of {env_file}: after the closing quote, only # and a comment may follow.",
            )
        # Also inside quotes: the serving code ignores spaces there too.
        values[name] = plain.strip()
    return values


def change(env_file: Path, changes: Mapping[str, str]) -> None:
    """Set keys in the file and leave every other line as it is; raises SettingInvalid and NotPermitted."""
    check({**read(env_file), **changes})
    lines = _lines(env_file)
    missing = dict(changes)
    for index, line in enumerate(lines):
        match = _LINE.fullmatch(line.strip())
        if match and not line.lstrip().startswith("#") and match[1] in changes:
            lines[index] = f"{match[1]}={changes[match[1]]}"
            missing.pop(match[1], None)
    lines.extend(f"{name}={value}" for name, value in missing.items())
    replace_text(env_file, "\n".join(lines) + "\n")


def _lines(env_file: Path) -> list[str]:
    remedy = "Copy it from where the project ran before, or from a new project: denzel startproject NAME"
    return read_text(env_file, remedy=remedy).removesuffix("\n").split("\n")


def _unquote(value: str) -> str | None:
    """The value without quotes and comment; None when a quote is not closed, or followed by more than a comment."""
    if value.startswith(("'", '"')):
        quoted = _QUOTED.fullmatch(value)
        return quoted[2] if quoted else None
    # In Compose, # begins a comment after a space, and is part of the value otherwise.
    return value.partition(" #")[0]


def _similar(name: str) -> str:
    if is_of_a_library(name):
        return f"Put it into pipeline.env, which is for variables of your own code: {name}=..."
    if near := difflib.get_close_matches(name, KEYS, n=1):
        return f"Did you mean {near[0]}? What your own code reads belongs into pipeline.env."
    return "docs/settings.md lists the keys. What your own code reads belongs into pipeline.env."
