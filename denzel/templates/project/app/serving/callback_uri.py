"""Callback URIs: their validation, their endpoint, and a form without credentials."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

Value = TypeVar("Value")

#: URIs whose values are remembered by a function that is `remembered`, and characters of each at most.
MAX_REMEMBERED = 1024
MAX_REMEMBERED_LENGTH = 1024


def remembered(function: Callable[[str], Value]) -> Callable[[str], Value]:
    """A function of a URI that remembers what it returned for the last ones: few are sent again and again."""
    short = lru_cache(MAX_REMEMBERED)(function)
    return lambda uri: short(uri) if len(uri) <= MAX_REMEMBERED_LENGTH else function(uri)


def check_uri(uri: Any) -> str:
    """`uri` when it is valid; raises ValueError with the reason otherwise."""
    if not isinstance(uri, str):
        raise ValueError(f"callback_uri must be text, not {type(uri).__name__}")
    problem = f"callback_uri must be an http or https address, not {uri!r}"
    if not uri.isascii() or not uri.isprintable() or " " in uri:
        raise ValueError(f"callback_uri must be ASCII without spaces, percent-encoded where need be, not {uri!r}")
    try:
        parts = urlsplit(uri)
        (parts.hostname or "").encode("idna")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(problem)
    return uri


@remembered
def endpoint_of(uri: str) -> str:
    """The endpoint of `uri`, as host:port: its callbacks share limits and outages."""
    return f"{urlsplit(uri).hostname}:{port_of(uri)}"


def port_of(uri: str) -> int:
    """The port in `uri`, or its scheme's default."""
    parts = urlsplit(uri)
    return parts.port or (443 if parts.scheme == "https" else 80)


def without_password(uri: str) -> str:
    """A URI for logs and screens: without the user name and password that it may contain."""
    if "@" not in uri:
        return uri
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
